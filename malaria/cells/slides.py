"""The slide that each cell was cut from, as the NLM's mapping files have it."""

import ast
import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from malaria.errors import UserError
from malaria.files import atomic_path

# The columns of slides.csv; sorted by path, one row a path, which is relative to the raw folder.
COLUMNS = ["path", "slide", "patient"]

# A person has a C number, an infected one a P number too: C100P61ThinF, C37BP2_thinF, C12NThinF.
_PATIENT = re.compile(r"(?P<person>C[0-9]+)(?:[A-Z]?(?P<infected>P[0-9]+))?")


@dataclass(frozen=True)
class Row:
    """A cell's slide: `slide` is the NLM's key, `patient` the P or else the C number in it."""

    path: str
    slide: str
    patient: str


def parse(mapping: Path, label: str) -> list[Row]:
    """Read one of the NLM's mapping files, of the cells in class folder `label`.

    It has no header; a row is a slide's key and a Python list of file names, and commas after it that
    fill the row up.

    Raises:
        UserError: a row is none such; it is named.
    """
    rows = []
    for number, line in enumerate(mapping.read_text(encoding="utf-8").splitlines(), 1):
        key, _, listed = line.strip().rstrip(",").partition(",")
        patient = _PATIENT.match(key)
        names = _names(listed)
        if patient is None or names is None:
            raise UserError(
                f"{mapping}, row {number}: this is no slide key with a list of file names; bring it again."
            )
        rows += [Row(f"{label}/{name}", key, patient["infected"] or patient["person"]) for name in names]
    return rows


def write(rows: Iterable[Row], path: Path) -> None:
    """Write `rows` as a table with COLUMNS, sorted, whole or not at all."""
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(sorted((row.path, row.slide, row.patient) for row in rows))


def read(path: Path) -> dict[str, Row]:
    """What `write` wrote, by path; empty where there is no table.

    Raises:
        UserError: it is another table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, csv.Error):
        header, rows = [], []
    if header != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise UserError(f"{path} is no table with the columns {','.join(COLUMNS)}: run `dvc repro -f fetch`.")
    return {row[0]: Row(*row) for row in rows}


def _names(listed: str) -> list[str] | None:
    try:
        names = ast.literal_eval(listed)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    plain = isinstance(names, list) and all(isinstance(name, str) and "/" not in name for name in names)
    return names if plain else None
