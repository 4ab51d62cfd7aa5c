"""Prepare the accepted cells once and write them as one array, so that no epoch decodes an image again."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from malaria import files, processes, tables
from malaria.cells import images, prepare
from malaria.cells.packed import ARRAY, COLOURS, INDEX
from malaria.params import Colour


def write(raw: Path, cells: pd.DataFrame, size: int, colour: Colour, folder: Path) -> int:
    """Prepare the accepted cells and write them, with their index, as `folder`.

    Each process holds only a few images at a time. The bytes do not depend on the number of processes.

    Args:
        raw: the folder to which the paths in `cells` are relative.
        cells: rows as tables.CELLS.
        size, colour: as for `prepare.prepare`.

    Returns:
        How many cells were written.

    Raises:
        UserError: an accepted cell can no longer be read.
    """
    accepted = cells[cells.status == tables.OK].sort_values("path", ignore_index=True)
    # The audit has applied its limits already; these only keep out files that have grown since.
    pixels = accepted.width * accepted.height
    max_pixels, bits = (max(map(int, values), default=0) for values in (pixels, accepted.bits))
    limits = images.Limits(min_side=1, max_pixels=max_pixels, bits=bits)
    read = functools.partial(prepare.read, raw, limits, size, colour)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(accepted), size, size, 3)}
    with files.atomic_folder(folder) as part:
        with (part / ARRAY).open("wb") as array:
            np.lib.format.write_array_header_1_0(array, header)
            colours = []
            for cell, _ in processes.map_in_order(read, list(accepted.path), "pack"):
                array.write(cell.pixels.data)
                colours.append(cell.own)
        accepted[list(COLOURS)] = np.reshape(colours, (-1, 3)).astype(np.int64)
        tables.write(accepted, part / INDEX, tables.INDEX)
    return len(accepted)
