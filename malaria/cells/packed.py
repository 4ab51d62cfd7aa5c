"""The accepted cells as one array, resized once, so that no epoch decodes an image again."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from malaria import files, labels, processes, tables
from malaria.cells import images
from malaria.errors import UserError

ARRAY = "cells.npy"
INDEX = "index.csv"


@dataclass(frozen=True)
class Packed:
    """`images`: uint8 (n, size, size, 3) RGB, memory-mapped and read-only; row i is of the cell that
    row i of `index` (tables.INDEX) describes.
    """

    images: npt.NDArray[np.uint8]
    index: pd.DataFrame

    @property
    def size(self) -> int:
        return int(self.images.shape[1])


def write(raw: Path, cells: pd.DataFrame, size: int, folder: Path, workers: int | None = None) -> None:
    """Resize the accepted of `cells` to `size` px and write them, with their index, as `folder`.

    Memory holds a few images a process at a time, and the bytes do not depend on how many processes
    work on them.

    Args:
        raw: the folder that the paths in `cells` start from.
        cells: rows as tables.CELLS.

    Raises:
        UserError: no cell is accepted, or an accepted one can no longer be read.
    """
    accepted = cells[cells.status == tables.OK].sort_values("path", ignore_index=True)
    if accepted.empty:
        raise UserError("data/cells.csv has no accepted cell: look at reports/audit.html and mend the data.")
    # The audit has set its limits already; this one only keeps out what has grown since.
    limits = images.Limits(min_side=1, max_pixels=int((accepted.width * accepted.height).max()))
    paths = list(accepted.path)
    with files.atomic_folder(folder) as part:
        array = part / ARRAY
        shape = (len(paths), size, size, 3)
        offset = np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=shape).offset
        work = functools.partial(images.resize_into, array, offset, size, raw, limits)
        reasons = processes.in_order(work, list(enumerate(paths)), "pack", workers)
        for path, reason in zip(paths, reasons, strict=True):
            if reason:
                raise UserError(
                    f"{raw / path} was read by the audit, but now: {reason}; run `dvc repro -f audit`."
                )
        tables.write(accepted, part / INDEX, tables.INDEX)


def load(folder: Path) -> Packed:
    """Open what `write` wrote; pixels are read from disk as they are used.

    Raises:
        UserError: the folder is missing, or its array and index do not belong together.
    """
    index = tables.read(folder / INDEX, tables.INDEX)
    try:
        pixels = np.load(folder / ARRAY, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        raise UserError(f"{folder / ARRAY} is missing or damaged: run `dvc repro -f pack`.") from None
    if pixels.dtype != np.uint8 or pixels.shape != (len(index), *pixels.shape[1:2] * 2, 3):
        raise UserError(
            f"{folder / ARRAY} holds {pixels.dtype} {pixels.shape}, which does not fit the {len(index)} rows "
            f"of {INDEX}: run `dvc repro -f pack`."
        )
    return Packed(pixels, index)


def rows(
    packed: Packed, splits: pd.DataFrame, name: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Where the cells of one side of the split lie.

    Args:
        splits: rows as tables.SPLITS.
        name: train, val or test.

    Returns:
        Rows of `packed.images`, int64 (n,), in the order of `splits`, and whether each is
        Parasitized, float32 (n,) of 1 and 0.

    Raises:
        UserError: the split has cells that were not packed.
    """
    side = splits[splits.split == name]
    return rows_of(packed, side.path), np.asarray(side.label == labels.POSITIVE, dtype=np.float32)


def rows_of(packed: Packed, paths: "pd.Series[str]") -> npt.NDArray[np.int64]:
    """The rows of `packed.images` that hold `paths`, int64 (n,); UserError if one is not packed."""
    found: npt.NDArray[np.int64] = pd.Index(packed.index.path).get_indexer(paths).astype(np.int64)
    if (found < 0).any():
        raise UserError(
            f"data/packed lacks {(found < 0).sum()} cells of the split, "
            f"{paths.iloc[int((found < 0).argmax())]} among them: run `dvc repro`."
        )
    return found
