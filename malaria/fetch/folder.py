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
        UserError: the folder is missing; as `class_folders.place` and `archives.as_folder`.
    """
    source = Path(data.folder)
    setting = f"params.yaml: data.folder is {data.folder}"
    if "://" in data.folder:
        raise UserError(f"{setting}: copy it to this machine and name it there.")
    if not source.is_absolute() and ".." in Path(os.path.normpath(source)).parts:
        raise UserError(
            f"{setting}, outside of this repository, where DVC's experiments do not find it: name it by its "
            f"whole path, {source.resolve()}."
        )
    if not source.is_dir() and not archives.is_archive(source):
        problem = "no zip or tar archive" if source.is_file() else "not there"
        raise UserError(
            f"{setting}, which is {problem}: name a folder. Experiments and clones only have one that `dvc "
            "add` has stored."
        )
    with archives.as_folder(source, folder) as (contents, put):
        provenance = class_folders.place(contents, folder, put, data.folder, data.classes)
    return replace(provenance, source="folder", origin=data.folder, licence="the owner's own")
