"""Writing the accepted cells as one array, resized once, so that no epoch decodes an image again."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from malaria import files, processes, tables
from malaria.cells import images
from malaria.cells.packed import ARRAY, INDEX
from malaria.errors import UserError


def write(raw: Path, cells: pd.DataFrame, size: int, folder: Path, workers: int | None = None) -> int:
    """Resize the accepted of `cells` to `size` px and write them, with their index, as `folder`.

    Memory holds a few images a process at a time, and the bytes do not depend on how many processes
    work on them.

    Args:
        raw: the folder that the paths in `cells` start from.
        cells: rows as tables.CELLS.

    Returns:
        How many cells were written.

    Raises:
        UserError: no cell is accepted, or an accepted one can no longer be read.
    """
    accepted = cells[cells.status == tables.OK].sort_values("path", ignore_index=True)
    if accepted.empty:
        raise UserError("data/cells.csv has no accepted cell: look at reports/audit.html, correct the data.")
    # The audit has set its limits already; this one only keeps out what has grown since.
    limits = images.Limits(min_side=1, max_pixels=int((accepted.width * accepted.height).max()))
    paths = list(accepted.path)
    with files.atomic_folder(folder) as part:
        array = part / ARRAY
        shape = (len(paths), size, size, 3)
        offset = np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=shape).offset
        work = functools.partial(resize_into, array, offset, size, raw, limits)
        reasons = processes.in_order(work, list(enumerate(paths)), "pack", workers)
        for path, reason in zip(paths, reasons, strict=True):
            if reason:
                raise UserError(
                    f"{raw / path} was read by the audit, but now: {reason}; run `dvc repro -f audit`."
                )
        tables.write(accepted, part / INDEX, tables.INDEX)
    return len(paths)


def resize_into(
    file: Path, offset: int, size: int, raw: Path, limits: images.Limits, cells: Sequence[tuple[int, str]]
) -> list[str]:
    """Read and resize images, and write them into an array's file, uint8 (n, size, size, 3).

    Args:
        offset: where in `file` its row 0 starts, in bytes.
        cells: consecutive rows, and the images below `raw` that belong there.

    Returns:
        For each image why it could not be read; empty for one that could.

    Raises:
        OSError: not all could be written.
    """
    rows = np.zeros((len(cells), size, size, 3), dtype=np.uint8)
    reasons = [""] * len(cells)
    for place, (_, path) in enumerate(cells):
        try:
            rows[place] = images.resize(images.read(raw / path, limits).pixels, size)
        except images.Unreadable as refusal:
            reasons[place] = refusal.reason
    # Not through a memory map, where the first touch of each new page takes longer than this. Buffered: a
    # full disk may take some of the bytes, which an unbuffered write only tells by their number.
    with file.open("r+b") as stream:
        stream.seek(offset + cells[0][0] * rows[0].nbytes)
        stream.write(rows.data)
    return reasons
