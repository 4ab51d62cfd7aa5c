"""The columns of the tables that stages pass on, and functions to read and write such tables."""

import io
from pathlib import Path

import pandas as pd

from malaria.errors import UserError
from malaria.files import atomic_path

#: One row for each image below data/raw, sorted by path. `path` is relative to data/raw, with forward
#: slashes, and unique; `label` is one of labels.LABELS; `patient` and `slide` are texts, empty if unknown;
#: `width` and `height` are in px, empty if the file could not be read; `pages` is the number of pages, of
#: which the first is read; `bits` is how many of 16 bits are in use, 8 to 16, and 0 in a file of 8 bits a
#: colour; `sha256` is of the file's bytes; `status` is ok or quarantined, and `reason` says why.
CELLS = {
    "path": "str",
    "label": "str",
    "patient": "str",
    "slide": "str",
    "width": "Int64",
    "height": "Int64",
    "pages": "Int64",
    "bits": "Int64",
    "sha256": "str",
    "status": "str",
    "reason": "str",
}

#: Slides that the publisher gives: one row for each cell, sorted by path, which is as in CELLS.
SLIDES = {"path": "str", "slide": "str", "patient": "str"}

#: Cells that were cut out of fields: one row for each, sorted by path. `field` is the field's file name; `x`,
#: `y`, `w`, `h` are the cell's box in it, in px.
FIELDS = {
    "path": "str",
    "patient": "str",
    "field": "str",
    "x": "int64",
    "y": "int64",
    "w": "int64",
    "h": "int64",
}

#: Patients that the cells' owner gives: one row for each such file; `file` is its path as in CELLS.
PATIENTS = {"file": "str", "patient": "str"}

#: One row for each accepted cell, sorted by path; `patient` is never empty (a cell of an unknown patient
#: counts as a patient of its own); `split` is train, val or test.
SPLITS = {"path": "str", "label": "str", "patient": "str", "split": "str"}

#: Row i describes row i of the packed arrays: accepted cells, sorted by path. `red`, `green`, `blue`: the
#: cell's own colour, in grey levels, before it is brought to the reference.
INDEX = {
    "path": "str",
    "label": "str",
    "patient": "str",
    "sha256": "str",
    "red": "int64",
    "green": "int64",
    "blue": "int64",
}

#: One row for each val or test cell, sorted by split and path. `p_network` is the network's probability of
#: Parasitized, `p_parasitized` the same after temperature scaling.
PREDICTIONS = {
    "path": "str",
    "patient": "str",
    "label": "str",
    "split": "str",
    "p_network": "float64",
    "p_parasitized": "float64",
}

#: One row for each cell, sorted by path, with the prediction of the network that was tested on its `fold`.
OUT_OF_FOLD = {**{name: kind for name, kind in PREDICTIONS.items() if name != "split"}, "fold": "int64"}

TRAIN, VAL, TEST = "train", "val", "test"
SPLIT_NAMES = (TRAIN, VAL, TEST)

OK, QUARANTINED = "ok", "quarantined"


def read(path: Path, columns: dict[str, str], content: str | None = None) -> pd.DataFrame:
    """Read a table with exactly `columns`; empty texts stay empty texts.

    Args:
        content: the file's text, if it has been read already, for example from another revision.

    Raises:
        UserError: the file is missing or damaged, or has other columns.
    """
    try:
        texts = _texts(path if content is None else io.StringIO(content))
        numbers = [name for name, kind in columns.items() if kind != "str"]
        if list(texts.columns) != list(columns):
            actual, expected = ", ".join(texts.columns), ", ".join(columns)
            raise UserError(f"{path} has the columns {actual}, but needs {expected}: run `dvc repro`.")
        texts[numbers] = texts[numbers].mask(texts[numbers] == "")
        return texts.astype(columns)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro`.") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): run `dvc repro`.") from None


def read_user_table(file: Path, *choices: str, key: str = "") -> pd.DataFrame:
    """Read a table that a user wrote: all texts, and empty ones stay empty.

    Args:
        choices: the columns that it must have, such as "file,patient"; one of the choices is enough.
        key: the parameter that names the file, if one does.

    Raises:
        UserError: there is no such file, or it is not such a table.
    """
    required = " or ".join(choices)
    try:
        with file.open(encoding="utf-8") as lines:
            texts = _texts(file, separator(lines.readline()))
        table = texts.rename(columns=lambda name: name.strip().lower())
        if table.columns.has_duplicates:
            raise ValueError("it has a column twice")
    except FileNotFoundError:
        raise UserError(f"params.yaml: {key} is {file}, but there is no such file.") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{file} is not UTF-8: save it as such (in Excel as CSV UTF-8), and run again."
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(
            f"{file} is no CSV table with the columns {required} ({str(error).strip()}): correct it."
        ) from None
    if not any(set(choice.split(",")) <= set(table.columns) for choice in choices):
        raise UserError(f"{file} has the columns {', '.join(texts.columns)}, but needs {required}.")
    return table


def separator(header: str) -> str:
    """The separator of a table's columns, by its first line: Excel may write commas, semicolons or tabs."""
    return max(",;\t", key=header.count)


def _texts(source: Path | io.StringIO, sep: str = ",") -> pd.DataFrame:
    """Read a CSV table as texts; by default pandas would read a patient called `NA` as a missing value."""
    table = pd.read_csv(source, dtype="str", keep_default_na=False, sep=sep)
    if not isinstance(table.index, pd.RangeIndex):
        # If rows are longer than the header, pandas makes their first column the index.
        raise ValueError("it has rows with more values than columns")
    return table


def write(frame: pd.DataFrame, path: Path, columns: dict[str, str] | None = None) -> None:
    """Write the `columns` of `frame` (None: all), in their order, whole or not at all; floats round-trip."""
    with atomic_path(path) as part:
        frame[list(columns or frame)].to_csv(part, index=False, lineterminator="\n")
