"""Whose cells are whose where file names do not tell: patients.csv, and cells of no known patient."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from malaria import paths, tables
from malaria.cells import names
from malaria.errors import UserError

# A cell whose patient is not known is its own, under this and its path.
_NOBODY = "cell "

_EXTENSION = re.compile(r"\.(png|jpe?g|tiff?|bmp)$")


def read(folder: Path) -> dict[str, str]:
    """`patients.csv` in `folder`: the patient of each file it names; empty where there is no table.

    Raises:
        UserError: it is no CSV table with the columns file and patient, or gives a file twice.
    """
    file = folder / paths.PATIENTS
    if not file.exists():
        return {}
    table = tables.read_given(file, "file,patient")
    table = table.assign(
        file=table.file.str.strip().str.replace("\\", "/"), patient=table.patient.str.strip()
    )
    table = table[table.patient != ""].drop_duplicates(["file", "patient"])
    twice = table.file[table.file.duplicated()]
    if len(twice):
        raise UserError(f"{file} gives {twice.iloc[0]} to two patients: keep one row for each file.")
    return dict(zip(table.file, table.patient, strict=True))


def told(
    given: Mapping[str, str], came_as: Mapping[str, str], origin: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which patient `given`, as `read` gives it, names for each file.

    A row names a file by its path, or by the end of it; the longest wins. Where no row is exact, case, the
    composition of accents, the extension and what marks an altered copy do not count.

    Args:
        came_as: by the path that a file has now, the path that it came with.

    Returns:
        The patient by path of now, and a phrase that counts the rows that name no file, if any.

    Raises:
        UserError: there are rows, and none names a file of `origin`.
    """
    folded, stems = _keyed(given, names.folded), _keyed(given, _stem)
    found: dict[str, str] = {}
    for path, came in came_as.items():
        for end in (*_ends(came), *_ends(path)):
            stem = _stem(end)
            rows = (end if end in given else "", folded.get(names.folded(end)), stems.get(stem))
            if row := next(filter(None, (*rows, stems.get(names.original(stem)))), None):
                found[path] = row
                break
    unused = sorted(set(given) - set(found.values()))
    if unused and not found:
        raise UserError(
            f"{origin}: no row of {paths.PATIENTS} names an image ({unused[0]} is one, "
            f"{next(iter(came_as.values()))} an image): correct its column file, or remove it."
        )
    told_of = {path: given[row] for path, row in found.items()}
    if not unused:
        return told_of, ()
    return told_of, (f"{len(unused):,} rows of {paths.PATIENTS} that name no image (such as {unused[0]})",)


def with_own(cells: pd.DataFrame) -> pd.DataFrame:
    """The accepted rows of `cells`; one of no known patient becomes its own, with its copies."""
    accepted = cells[cells.status == tables.OK].reset_index(drop=True)
    stems = accepted.path.map(_stem)
    first = dict(zip(stems, accepted.path, strict=True))
    own = [first.get(names.original(stem), path) for stem, path in zip(stems, accepted.path, strict=True)]
    return accepted.assign(
        patient=accepted.patient.where(accepted.patient != "", [_NOBODY + one for one in own])
    )


def known(patient: "pd.Series[str]") -> "pd.Series[bool]":
    """Which of the patients, as `with_own` gives them, are known."""
    return ~patient.str.startswith(_NOBODY)


def _keyed(given: Mapping[str, str], key: Callable[[str], str]) -> dict[str, str]:
    """The rows by the key of their file; empty where a key stands for files of several patients."""
    rows: dict[str, str] = {}
    for row, patient in given.items():
        first = rows.setdefault(key(row), row)
        if first and given[first] != patient:
            rows[key(row)] = ""
    return rows


def _stem(name: str) -> str:
    return _EXTENSION.sub("", names.folded(name))


def _ends(path: str) -> Iterator[str]:
    """A path, then what is left of it without its first folder, and so on."""
    yield path
    while path := path.partition("/")[2]:
        yield path
