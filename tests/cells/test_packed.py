"""The packed array: its rows, its bytes, and finding a split's cells in it."""

import functools
import hashlib
import resource

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from malaria import processes, tables
from malaria.cells import pack, packed
from malaria.errors import UserError

COUNT = 60


@pytest.fixture
def raw(tmp_path):
    """A folder of cells of different sizes; all pixels of a cell have its number as their level."""
    for number in range(COUNT):
        file = tmp_path / "raw" / path_of(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number % 7, 50), (number,) * 3).save(file)
    return tmp_path / "raw"


def path_of(number):
    return f"{'Uninfected' if number % 2 else 'Parasitized'}/{number:03}.png"


@pytest.fixture
def cells():
    frame = pd.DataFrame({"path": [path_of(number) for number in range(COUNT)]})
    frame["label"] = frame.path.str.split("/").str[0]
    return frame.assign(
        patient="", slide="", width=46, height=50, pages=1, bits=0, sha256="0", status="ok", reason=""
    )


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_row_by_row_the_array_holds_what_the_index_names(raw, cells, tmp_path):
    pack.write(raw, cells, 32, "as-is", tmp_path / "packed")
    written = packed.load(tmp_path / "packed")
    assert written.images.shape == (COUNT, 32, 32, 3)
    assert written.size == 32
    for pixels, path in zip(written.images, written.index.path, strict=True):
        assert np.unique(pixels).tolist() == [int(path[-7:-4])]


def test_the_index_is_sorted_by_path(raw, cells, tmp_path):
    pack.write(raw, cells.sample(frac=1, random_state=1), 32, "as-is", tmp_path / "packed")
    assert packed.load(tmp_path / "packed").index.path.is_monotonic_increasing


def test_what_is_quarantined_is_not_packed(raw, cells, tmp_path):
    cells.loc[3, "status"] = tables.QUARANTINED
    pack.write(raw, cells, 32, "as-is", tmp_path / "packed")
    assert path_of(3) not in set(packed.load(tmp_path / "packed").index.path)


def test_the_bytes_do_not_depend_on_the_number_of_processes(raw, cells, tmp_path, monkeypatch):
    pack.write(raw, cells, 32, "as-is", tmp_path / "one")
    monkeypatch.setattr(processes, "map_in_order", functools.partial(processes.map_in_order, processes=2))
    pack.write(raw, cells, 32, "as-is", tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_pixels_are_mapped_and_cannot_be_written(raw, cells, tmp_path):
    pack.write(raw, cells, 32, "as-is", tmp_path / "packed")
    pixels = packed.load(tmp_path / "packed").images
    assert isinstance(pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


def test_an_image_that_broke_since_the_audit_asks_for_another_audit(raw, cells, tmp_path):
    (raw / path_of(5)).write_bytes(b"gone")
    with pytest.raises(UserError, match=r"005\.png is no PNG.* since the audit: .*-f audit"):
        pack.write(raw, cells, 32, "as-is", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_nothing_accepted_is_an_empty_array(raw, cells, tmp_path):
    aside = cells.assign(status="quarantined")
    assert pack.write(raw, aside, 32, "as-is", tmp_path / "packed") == 0
    assert packed.load(tmp_path / "packed").images.shape == (0, 32, 32, 3)


def test_a_missing_array_is_named(raw, cells, tmp_path):
    pack.write(raw, cells, 32, "as-is", tmp_path / "packed")
    (tmp_path / "packed" / packed.ARRAY).unlink()
    with pytest.raises(UserError, match=r"cells\.npy is missing or damaged"):
        packed.load(tmp_path / "packed")


def test_an_array_of_other_cells_is_refused(raw, cells, tmp_path):
    pack.write(raw, cells, 32, "as-is", tmp_path / "packed")
    np.save(tmp_path / "packed" / packed.ARRAY, np.zeros((3, 32, 32, 3), dtype=np.uint8))
    with pytest.raises(UserError, match="does not fit the 60 rows"):
        packed.load(tmp_path / "packed")


def test_rows_are_found_in_the_order_of_their_paths(raw, cells, tmp_path):
    pack.write(raw, cells, 32, "as-is", tmp_path / "packed")
    written = packed.load(tmp_path / "packed")
    paths = cells.path[::-3]
    rows = packed.rows_of(written, paths)
    assert rows.dtype == np.int64
    assert list(written.index.path[rows]) == list(paths)


def test_a_cell_that_was_not_packed_is_named(raw, cells, tmp_path):
    pack.write(raw, cells[1:], 32, "as-is", tmp_path / "packed")
    with pytest.raises(UserError, match=r"lacks 1 cells, such as Parasitized/000\.png"):
        packed.rows_of(packed.load(tmp_path / "packed"), cells.path)


def test_a_write_that_the_disk_takes_only_in_part_is_an_error(raw, cells, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (COUNT * 30 * 30 * 3 - 1, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            pack.write(raw, cells, 30, "as-is", tmp_path / "packed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "packed").exists()
