"""Finding cells on synthetic fields, where their boxes are known, and recognising other pictures."""

import numpy as np
import pytest
from scipy import ndimage

from malaria.fields import annotations, find, matching, synthetic
from malaria.labels import LABELS, UNINFECTED


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


def of_ellipses(cells, pale=()):
    """A field of elliptic cells, uint8 (480, 640, 3), and its marks.

    Args:
        cells, pale: (x, y, length, width, turn) of each cell, in px and radians; `pale` ones are blurred.
    """
    down, across = np.mgrid[:480, :640]
    fields, marks = [], []
    for ellipses, blur in ((cells, 1), (pale, 6)):
        passed = np.ones((480, 640, 3))
        for x, y, length, width, turn in ellipses:
            along = (across - x) * np.cos(turn) + (down - y) * np.sin(turn)
            aside = (down - y) * np.cos(turn) - (across - x) * np.sin(turn)
            inside = np.hypot(along / length, aside / width) < 0.5
            passed[inside] *= [0.9, 0.6, 0.8]
            rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            box = (float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1))
            marks.append(annotations.Mark(UNINFECTED, box))
        fields.append(ndimage.gaussian_filter(passed, (blur, blur, 0)))
    light = fields[0] * fields[1] * 225 + np.random.default_rng(0).normal(0, 2, passed.shape)
    return np.clip(light, 0, 255).astype(np.uint8), marks


ALONE = [(x, y, 60, 60, 0) for x in range(60, 640, 130) for y in (60, 420)]


def all_found(pixels, marks):
    """Whether exactly the marked cells are found; the largest error in x, y, width or height of a box, px."""
    field = find.find(pixels)
    matched = matching.match(field, marks)
    off = [np.abs(np.subtract(field.cells[i].box, marks[j].box)).max() for i, j in matched.pairs]
    return (len(matched.pairs), matched.missed, matched.extra) == (len(marks), (), ()), max(off)


@pytest.mark.parametrize("apart", [0.4, 0.5, 0.7])
def test_three_cells_that_overlap_each_other_have_a_box_each(apart):
    away = apart * 60 / 3**0.5
    threes = [
        (x + away * np.cos(turn), 240 + away * np.sin(turn), 60, 60, 0)
        for x in (120, 320, 520)
        for turn in (0, 2 * np.pi / 3, 4 * np.pi / 3)
    ]
    assert all_found(*of_ellipses(ALONE + threes))[0]


@pytest.mark.parametrize("longer", [1.5, 2, 2.5, 3, 4])
def test_a_long_cell_is_one_cell_and_whole(longer):
    long = [(x, 240, 60 * longer**0.5, 60 / longer**0.5, x) for x in (120, 320, 520)]
    found, off = all_found(*of_ellipses(ALONE + long))
    assert found
    assert off <= 5


def test_a_large_pale_cell_among_others_is_found():
    near = [
        (320 + 78 * np.cos(turn), 240 + 78 * np.sin(turn), 60, 60, 0) for turn in np.arange(5) * 2 * np.pi / 5
    ]
    large = (320, 240, 96, 96, 0)
    pixels, marks = of_ellipses(ALONE + near, pale=[large])
    assert all_found(pixels, marks)[0]


def test_what_is_no_red_cell_is_not_found(thin):
    _, marks, field = thin
    assert {marks[j].label for _, j in matching.match(field, marks).pairs} <= set(LABELS)


def test_lobes_of_a_nucleus_are_no_red_cells_but_dark_red_cells_are():
    dark = [(x, y, 60, 60, 0) for x, y in ((150, 230), (195, 250), (150, 290), (200, 310))]
    pixels, marks = of_ellipses(ALONE + dark)
    down, across = np.mgrid[:480, :640]

    def disc(x, y, radius):
        return np.hypot(across - x, down - y) < radius

    for x, y, *_ in dark:
        pixels[disc(x, y, 30)] = pixels[disc(x, y, 30)] * np.array([0.9, 0.6, 0.8]) ** 2
    for x, y in ((400, 220), (440, 250), (400, 285)):
        pixels[disc(x, y, 22)] = (96, 48, 140)
    assert all_found(pixels, marks)[0]


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


@pytest.mark.parametrize("less", range(6))
def test_a_cell_at_the_border_is_cut_whatever_the_size_of_the_field(thin, less):
    pixels = thin[0][: 470 - less, : 630 - less]
    height, width = pixels.shape[:2]
    ends = [(x + w, y + h, cell.cut) for cell in find.find(pixels).cells for x, y, w, h in [cell.box]]
    at_border = [cut for right, bottom, cut in ends if right >= width - 2 or bottom >= height - 2]
    assert at_border
    assert all(at_border)


def round_view(pixels, radius, falls):
    """What an eyepiece shows of a field: a disc, and noisy black around it; and where the disc is.

    `falls`: how much darker the disc's rim is than its middle, as a share.
    """
    down, across = np.mgrid[-240:240, -320:320]
    far = np.hypot(down, across) / radius
    light = (1 - falls * far**2) * (far < 1)
    noise = np.random.default_rng(0).integers(0, 9, pixels.shape)
    return np.clip(pixels * light[:, :, None] + noise, 0, 255).astype(np.uint8), far < 1


@pytest.mark.parametrize(("radius", "falls"), [(220, 0), (220, 0.5), (150, 0.5)])
def test_the_round_view_of_an_eyepiece_is_a_field_whose_rim_cuts_cells(thin, radius, falls):
    pixels, marks, _ = thin
    seen, inside = round_view(pixels, radius, falls)

    def share(box):
        x, y, w, h = map(int, box)
        return inside[y : y + h, x : x + w].mean()

    whole = [mark for mark in marks if mark.label in LABELS and share(mark.box) == 1]
    field = find.find(seen)
    assert field.kind == find.THIN_FILM
    assert len(matching.match(field, whole).missed) <= 2
    if not falls:
        assert np.abs(np.array(field.background) - find.find(pixels).background).max() < 8
    for cell in field.cells:
        assert share(cell.box) > 0.5
        assert cell.cut or share(cell.box) > 0.9
    assert any(cell.cut and min(cell.box[:2]) > 0 for cell in field.cells)


@pytest.mark.parametrize("falls", [0.3, 0.5])
def test_light_that_falls_off_towards_the_corners_costs_no_cells(thin, falls):
    pixels, marks, _ = thin
    down, across = np.mgrid[-1:1:480j, -1:1:640j]
    light = 1 - falls * (down**2 + across**2)
    field = find.find((pixels * light[:, :, None].clip(0)).astype(np.uint8))
    matched = matching.match(field, marks)
    assert field.kind == find.THIN_FILM
    assert len(matched.missed) <= 5
    assert len(matched.extra) <= 5


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


def test_a_field_with_cells_in_focus_beside_blurred_ones_is_a_thin_film():
    sharp, blurred = (drawn(4, kind)[0] for kind in (synthetic.THIN, synthetic.BLURRED))
    field = find.find(np.concatenate([sharp[:, :260], blurred[:, 260:]], axis=1))
    assert (field.kind, len(field.cells) > 10) == (find.THIN_FILM, True)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_colour_is_empty(level):
    assert find.find(np.full((120, 100, 3), level, np.uint8)).kind == find.EMPTY


def test_a_picture_of_noise_is_no_field():
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    assert find.find(noise).cells == ()
