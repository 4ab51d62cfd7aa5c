"""Your own cells: a folder, zip or tar with one sub-folder per class."""

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd

from malaria import params, tables
from malaria.cells import names, patients
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.fetch import archives, class_folders
from malaria.paths import PATIENTS


def fetch(data: params.Data, folder: Path, _cache: Path | None = None) -> Provenance:
    """Copy the class folders of `data.folder`, and its patients.csv if there is one.

    Raises:
        UserError: the folder is missing; patients.csv is not such a table; as `class_folders.place` and
            `archives.opened`.
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
        placed = class_folders.place(cells, folder, put, data.folder, data.classes)
        try:
            table: dict[str, str] = {}
            for at in placed.beside:
                for file, of in patients.read(at).items():
                    if table.setdefault(file, of) != of:
                        raise UserError(
                            f"{data.folder}: two tables {PATIENTS} give {file} to two patients: name it with "
                            "its folder, in one table beside the folders."
                        )
        except UserError as error:
            # Name the archive, not the temporary folder with its content.
            raise UserError(str(error).replace(str(cells), data.folder)) from None
    found, unused = patients.of_files(table, placed.came_as, data.folder)
    if found:
        # The audit sets aside paths that cannot be printed.
        rows = [row for row in found.items() if not names.UNPRINTABLE.search(row[0])]
        tables.write(pd.DataFrame(rows, columns=list(tables.PATIENTS)), folder / PATIENTS, tables.PATIENTS)
    known, ignored = placed.known, placed.known.ignored + unused
    return replace(known, source="folder", origin=data.folder, licence="the owner's own", ignored=ignored)
