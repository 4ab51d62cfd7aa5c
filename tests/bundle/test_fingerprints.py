"""Fingerprints: how a bundle recognises the cells that its model was made with."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import pictures
from malaria import bundle
from malaria.bundle import fingerprints
from malaria.cells import images
from malaria.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def drawn():
    """60 synthetic cells in their original sizes."""
    return [pixels for pixels, _ in pictures.cells(60, seed=3)]


@pytest.fixture(scope="module")
def record(drawn):
    """The fingerprints of a model that was made with the first 40 cells."""
    made_with = fingerprints.of(images.resize(cell, 50) for cell in drawn[:40])
    return fingerprints.from_bytes(fingerprints.to_bytes(made_with))


def known(record, cells):
    return fingerprints.known(record, [images.resize(cell, 50) for cell in cells]).tolist()


def test_a_cell_is_known_by_its_pixels_and_no_other_is(record, drawn):
    assert known(record, drawn) == [True] * 40 + [False] * 20


@pytest.mark.parametrize(("bits", "is_known"), [(10, True), (11, False)])
def test_a_copy_differs_in_ten_bits_at_most(drawn, bits, is_known):
    cell = images.resize(drawn[0], 50)
    changed = fingerprints.of([cell]) ^ np.array([[2 ** (bits - 3) - 1, 0b111]], dtype=np.uint64)
    assert known(changed, [cell]) == [is_known]


def smaller(cell):
    return np.asarray(Image.fromarray(cell).resize((90, 90), Image.Resampling.BILINEAR))


def compressed(cell):
    out = io.BytesIO()
    Image.fromarray(cell).save(out, "JPEG", quality=90)
    return np.asarray(Image.open(out))


def rounded_down(cell):
    return cell - (cell > 0).astype(np.uint8)


@pytest.mark.parametrize("copy", [smaller, compressed, rounded_down])
def test_a_copy_with_other_pixels_is_known_too(record, drawn, copy):
    found = known(record, [copy(cell) for cell in drawn])
    assert sum(found[:40]) >= 36
    assert not any(found[40:])


@pytest.mark.real_cells
def test_the_pretrained_model_knows_its_cells_at_their_original_size(shared_cells):
    folder = ROOT / "models/pretrained"
    model = bundle.load(folder)
    record = fingerprints.from_bytes(bundle.read_part(folder, model.record, "trained_on"))
    with zipfile.ZipFile(shared_cells / "nih-original-size.zip") as pack:
        cells = [
            model.prepare(images.read(pack.read(name), images.Limits(1, 10**6)).pixels).pixels
            for name in pack.namelist()
            if name.endswith(".png")
        ]
    # All but one: its margin is cropped from the 50 px copy, but not from the original.
    assert fingerprints.known(record, cells).sum() == 158


def test_the_record_tells_nothing_of_the_order_of_the_cells(drawn):
    cells = [images.resize(cell, 50) for cell in drawn]
    one, other = fingerprints.of(cells), fingerprints.of(cells[::-1])
    assert fingerprints.to_bytes(one) == fingerprints.to_bytes(other)


def test_a_record_that_knows_no_copies_counts_as_none():
    out = io.BytesIO()
    np.save(out, np.arange(3, dtype=np.uint64))
    assert fingerprints.from_bytes(out.getvalue()) is None


@pytest.mark.parametrize("content", [b"", b"no array", np.zeros(3).tobytes(), b"PK\3\4"])
def test_a_damaged_record_is_refused(content):
    with pytest.raises(UserError, match="record of its training cells is damaged"):
        fingerprints.from_bytes(content)
