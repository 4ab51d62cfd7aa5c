"""Writing the accepted cells as one array, resized once, so that no epoch decodes an image again."""

import functools
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
    work = functools.partial(images.read_resized, raw, limits, size)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(accepted), size, size, 3)}
    with files.atomic_folder(folder) as part:
        with (part / ARRAY).open("wb") as array:
            np.lib.format.write_array_header_1_0(array, header)
            paths = list(accepted.path)
            for path, pixels in zip(paths, processes.in_order(work, paths, "pack", workers), strict=True):
                if isinstance(pixels, str):
                    raise UserError(f"{raw / path} is {pixels} since the audit: run `dvc repro -f audit`.")
                array.write(pixels.data)
        tables.write(accepted, part / INDEX, tables.INDEX)
    return len(accepted)
