"""Your own cells: a folder, zip or tar with one sub-folder per class."""

import os
from dataclasses import replace
from pathlib import Path

from malaria import params
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.fetch import archives, class_folders


def fetch(data: params.Data, folder: Path, _cache: Path | None = None) -> Provenance:
    """Copy the class folders of `data.folder`, and its patients.csv if there is one.

    Raises:
        UserError: the folder is missing; as `class_folders.place` and `archives.opened`.
    """
    given = Path(data.folder)
    said = f"params.yaml: data.folder is {data.folder}"
    if "://" in data.folder:
        raise UserError(f"{said}: copy it to this machine and name it there.")
    if not given.is_absolute() and ".." in Path(os.path.normpath(given)).parts:
        raise UserError(
            f"{said}, outside of this repository, where DVC's experiments do not find it: name it by its "
            f"whole path, {given.resolve()}."
        )
    if not given.is_dir() and not archives.is_archive(given):
        what = "no zip or tar archive" if given.is_file() else "not there"
        raise UserError(
            f"{said}, which is {what}: name a folder. Experiments and clones only have one that `dvc add` "
            "has stored."
        )
    with archives.opened(given, folder) as (cells, put):
        known = class_folders.place(cells, folder, put, data.folder, data.classes)
    return replace(known, source="folder", origin=data.folder, licence="the owner's own")
