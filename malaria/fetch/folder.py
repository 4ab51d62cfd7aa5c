"""Your own cells: a folder, zip or tar with one sub-folder per class."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from malaria import params
from malaria.cells import patients
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.fetch import archives, class_folders
from malaria.paths import PATIENTS


def fetch(data: params.Data, folder: Path, _cache: Path | None = None) -> Provenance:
    """Copy the class folders of `data.folder`, and its patients.csv if there is one.

    Raises:
        UserError: no such folder; a patients.csv of another shape; as `class_folders.place` and
            `archives.unpack`.
    """
    given = Path(data.folder)
    if archives.is_archive(given):
        with archives.unpacked(given, folder) as cells:
            return _place(cells, data, folder, os.replace)
    if not given.is_dir():
        what = "no zip or tar archive" if given.is_file() else "not there"
        raise UserError(f"params.yaml: data.folder is {data.folder}, which is {what}: name a folder.")
    return _place(given, data, folder, shutil.copyfile)


def _place(given: Path, data: params.Data, folder: Path, put: Callable[[Path, Path], object]) -> Provenance:
    beside, placed = class_folders.place(given, folder, put, data.folder, data.classes)
    try:
        if patients.read(beside):
            shutil.copyfile(beside / PATIENTS, folder / PATIENTS)
    except UserError as error:
        # An archive's content lies elsewhere for the moment.
        raise UserError(str(error).replace(str(given), data.folder)) from None
    return replace(placed, source="folder", origin=data.folder, licence="the owner's own")
