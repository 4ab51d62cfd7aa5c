"""The patients of cells, where other files than the cell give them, and cells of unknown patients."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from malaria import paths, tables
from malaria.cells import names
from malaria.errors import UserError

# A cell of an unknown patient counts as a patient of its own, whose name is this prefix and the cell's path.
_UNKNOWN = "cell "

# Also what Roboflow adds to the name of each altered copy: cell_167_png.rf.<hash>.jpg.
_EXTENSION = re.compile(r"(_[a-z]+\.rf\.[0-9a-z]+)?\.(png|jpe?g|tiff?|bmp)$", re.IGNORECASE)


def read(folder: Path) -> dict[str, str]:
    """Read `patients.csv` in `folder`: the patient of each file that it names; empty without such a table.

    Raises:
        UserError: it is not a CSV table with the columns file and patient, a link to nothing, or gives a file
            to two patients.
    """
    file = folder / paths.PATIENTS
    if not file.exists():
        if file.is_symlink():
            raise UserError(f"{file} is a link to nothing: put the table there, or delete the link.")
        return {}
    table = tables.read_user_table(file, "file,patient")
    table["file"] = table.file.str.strip().str.replace("\\", "/")
    table["patient"] = table.patient.str.strip()
    table = table[table.patient != ""].drop_duplicates(["file", "patient"])
    repeated = table.file[table.file.duplicated()]
    if len(repeated):
        raise UserError(f"{file} gives {repeated.iloc[0]} to two patients: keep one row for each file.")
    return dict(zip(table.file, table.patient, strict=True))


def read_slides(raw: Path) -> dict[str, names.CellName]:
    """Read the publisher's `slides.csv` in `raw`: patient and slide by path; empty without such a table.

    Raises:
        UserError: the table is damaged, or has other columns.
    """
    file = raw / paths.SLIDES
    if not file.exists():
        return {}
    rows = tables.read(file, tables.SLIDES).itertuples(index=False)
    return {path: names.CellName(patient, slide) for path, slide, patient in rows}


def of_files(
    table: Mapping[str, str], original_of: Mapping[str, str], origin: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Find the patient of each file in a `table` from `read`.

    A row names a file by its path, or by the end of the path; the longest match wins. If no row matches
    exactly, case, the composition of accents, the extension and the ending of an altered copy are ignored.

    Args:
        original_of: the original path of each file, by its present path.
        origin: what users call the source, for the error message.

    Returns:
        The patient by present path; and, if some rows name no file, a phrase with their number.

    Raises:
        UserError: there are rows, and none names a file.
    """
    rows_by_name, rows_by_stem = _rows_by(names.folded, table), _rows_by(_stem, table)
    row_of: dict[str, str] = {}
    for path, original in original_of.items():
        for end in (*_ends(original), *_ends(path)):
            stem = _stem(end)
            by_stem = rows_by_stem.get(stem) or rows_by_stem.get(names.without_copy_suffix(stem))
            row = (end if end in table else "") or rows_by_name.get(names.folded(end)) or by_stem
            if row:
                row_of[path] = row
                break
    unused = sorted(set(table) - set(row_of.values()))
    if unused and not row_of:
        raise UserError(
            f"{origin}: no row of {paths.PATIENTS} names an image ({unused[0]} is one, "
            f"{next(iter(original_of.values()))} an image): correct its column file, or remove it."
        )
    patients = {path: table[row] for path, row in row_of.items()}
    if not unused:
        return patients, ()
    return patients, (f"{len(unused):,} rows of {paths.PATIENTS} that name no image (such as {unused[0]})",)


def accepted(cells: pd.DataFrame) -> pd.DataFrame:
    """The accepted rows of `cells`; a cell of unknown patient, with its copies, becomes its own patient."""
    accepted = cells[cells.status == tables.OK].reset_index(drop=True)
    stems = accepted.path.map(_stem)
    path_of = dict(zip(stems, accepted.path, strict=True))
    originals = (path_of.get(names.without_copy_suffix(stem)) for stem in stems)
    unknown = [_UNKNOWN + (original or path) for original, path in zip(originals, accepted.path, strict=True)]
    return accepted.assign(patient=accepted.patient.where(accepted.patient != "", unknown))


def is_known(patient: "pd.Series[str]") -> "pd.Series[bool]":
    """Which patients, named as by `accepted`, are known; bool (n,)."""
    return ~patient.str.startswith(_UNKNOWN)


def _rows_by(key: Callable[[str], str], table: Mapping[str, str]) -> dict[str, str]:
    """The rows by the key of their file; an empty text for a key that files of several patients share."""
    rows: dict[str, str] = {}
    for row, patient in table.items():
        first = rows.setdefault(key(row), row)
        if first and table[first] != patient:
            rows[key(row)] = ""
    return rows


def _stem(name: str) -> str:
    return without_extension(names.folded(name))


def without_extension(path: str) -> str:
    """The path without its extension, the same for all copies of an image that Roboflow makes."""
    return _EXTENSION.sub("", path)


def _ends(path: str) -> list[str]:
    """The path, then the path without its first folder, and so on."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
