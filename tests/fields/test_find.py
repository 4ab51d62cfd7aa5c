"""Cells are found on drawn fields, whose truth is known; other pictures are named as what they are."""

import numpy as np
import pytest

from malaria.fields import find, matching, synthetic
from malaria.labels import LABELS


def drawn(seed: int, kind: str = synthetic.THIN):
    return synthetic.draw(np.random.default_rng(seed), kind, (640, 480), cells=40, diameter=60)


@pytest.fixture(scope="module")
def thin():
    pixels, marks = drawn(1)
    return pixels, marks, find.find(pixels)


def test_cells_that_touch_and_overlap_are_found_one_by_one(thin):
    _, marks, field = thin
    matched = matching.match(field, marks)
    assert field.kind == find.THIN_FILM
    assert len(matched.missed) <= 4
    assert len(matched.extra) <= 4


def test_what_is_no_red_cell_is_not_found(thin):
    _, marks, field = thin
    assert {marks[j].label for _, j in matching.match(field, marks).pairs} <= set(LABELS)


def test_the_measured_diameter_is_that_of_the_cells(thin):
    assert thin[2].diameter == pytest.approx(60, rel=0.15)


def test_a_cell_knows_its_outline_and_whether_the_border_cuts_it(thin):
    pixels, _, field = thin
    height, width = pixels.shape[:2]
    for cell in field.cells:
        x, y, w, h = cell.box
        assert cell.mask.shape == (h, w)
        assert np.abs(cell.outline.min(axis=0) - (x, y)).max() < 3
        assert cell.cut == (x == 0 or y == 0 or x + w == width or y + h == height)


def test_a_crop_is_the_cell_at_its_own_size_on_black(thin):
    pixels, _, field = thin
    cell = field.cells[0]
    x, y, w, h = cell.box
    crop = find.crop(pixels, cell)
    assert (crop[cell.mask] == pixels[y : y + h, x : x + w][cell.mask]).all()
    assert not crop[~cell.mask].any()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (synthetic.THICK, find.THICK_FILM),
        (synthetic.BLURRED, find.BLURRED),
        (synthetic.EMPTY, find.EMPTY),
    ],
)
def test_what_is_no_thin_film_in_focus_is_named_and_has_no_cells(kind, named):
    field = find.find(drawn(4, kind)[0])
    assert (field.kind, field.cells) == (named, ())


def test_a_picture_of_noise_is_no_field():
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    assert find.find(noise).cells == ()
