"""malaria.cells.prepare removes differences of stain, light and margin between crops."""

import numpy as np
import pytest
from PIL import Image

from malaria.cells import images, prepare, synthetic

SIZE = 50


@pytest.fixture(scope="module", params=range(4))
def cell(request):
    random = np.random.default_rng(request.param)
    return synthetic.draw(random, synthetic.stain(random), parasitized=request.param % 2 == 0)


def own(crop):
    return prepare.prepare(crop, SIZE, "own")


def apart(one, other):
    return np.abs(one.pixels.astype(int) - other.pixels).mean()


def test_a_cells_colour_becomes_the_reference(cell):
    inside = own(cell).pixels[own(cell).pixels.max(axis=2) > 16]
    assert np.percentile(inside, 60, axis=0) == pytest.approx([200, 150, 165], abs=3)


def test_its_own_colour_is_kept_beside_it(cell):
    part = images.resize(cell, SIZE)
    inside = part[part.max(axis=2) > 16]
    expected = np.percentile(inside, 60, axis=0, method="inverted_cdf")
    for colour in (prepare.AS_IS, "own"):
        assert prepare.prepare(cell, SIZE, colour).own == pytest.approx(tuple(expected), abs=1)


@pytest.mark.parametrize("gains", [(0.8, 0.8, 0.8), (1.1, 1.1, 1.1), (1.1, 1.0, 0.9), (0.85, 1.0, 1.1)])
def test_another_light_changes_little(cell, gains):
    cell = (0.8 * cell).astype(np.uint8)
    other = (cell * np.array(gains)).clip(0, 255).astype(np.uint8)
    assert apart(own(cell), own(other)) < 0.7 * apart(
        prepare.prepare(cell, SIZE, "as-is"), prepare.prepare(other, SIZE, "as-is")
    )


def test_more_of_the_same_stain_changes_little(cell):
    # Darker, so that no channel is as bright as the background.
    cell = (0.8 * cell).astype(np.uint8)
    other = np.where(cell.max(axis=2, keepdims=True) > 16, 235 * (cell / 235) ** 1.5, cell).astype(np.uint8)
    assert apart(own(cell), own(other)) < 3


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 90), (3, 2)])
def test_a_crop_of_a_few_pixels_is_stretched_as_any_other(shape):
    prepared = own(np.full((*shape, 3), 200, np.uint8))
    assert (prepared.pixels.shape, prepared.shape) == ((SIZE, SIZE, 3), shape)


@pytest.mark.parametrize("margin", [(255, 255, 255), (225, 215, 220), (30, 30, 30)])
def test_a_margin_comes_off_whatever_its_colour(cell, margin):
    side = max(cell.shape[:2])
    at = np.s_[side // 3 : side // 3 + cell.shape[0], side // 2 : side // 2 + cell.shape[1]]
    on_black = np.zeros((2 * side, 2 * side, 3), np.uint8)
    on_black[at] = cell
    other = np.where(on_black.max(axis=2, keepdims=True) > 0, on_black, np.uint8(margin))
    tight = prepare.without_margin(on_black)
    assert abs(np.subtract(tight.shape, cell.shape)).max() < 0.1 * side
    assert apart(own(on_black), own(tight)) < 1
    assert apart(own(other), own(on_black)) < 1


def test_an_uneven_background_stays():
    noisy = np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8)
    assert (prepare.without_margin(noisy) == noisy).all()


def test_black_stays_black_and_nothing_fails_without_a_cell():
    for level in (0, 12, 255):
        flat = np.full((40, 40, 3), level, dtype=np.uint8)
        assert own(flat).pixels.shape == (SIZE, SIZE, 3)
    assert not own(np.zeros((40, 40, 3), np.uint8)).pixels.any()


def test_preparation_as_is_only_resizes_a_crop(cell):
    assert (prepare.prepare(cell, SIZE, "as-is").pixels == images.resize(cell, SIZE)).all()


def test_a_turned_cell_is_the_cell_turned(cell):
    turned = own(np.rot90(cell)).pixels
    assert np.abs(turned.astype(int) - np.rot90(own(cell).pixels)).mean() < 1.5
    tilted = np.asarray(Image.fromarray(cell).rotate(45, expand=True))
    assert own(tilted).pixels[25, 25].all()
