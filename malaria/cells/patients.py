"""Your own word on whose cells are whose: patients.csv, beside the class folders."""

from pathlib import Path

from malaria import paths, tables
from malaria.errors import UserError


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


def of(path: str, given: dict[str, str]) -> str:
    """The patient that patients.csv gives to `path`, by its most precise name; empty where it gives none."""
    return next((given[name] for name in names(path) if name in given), "")


def names(path: str) -> tuple[str, str, str]:
    """How patients.csv may call a file: by its path below raw or its class folder, or by its name."""
    return path, path.partition("/")[2], path.rpartition("/")[2]
