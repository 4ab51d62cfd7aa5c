"""Doubtful labels: a list of cells whose given label is thought to be wrong."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from malaria import params, tables
from malaria.errors import UserError
from malaria.labels import LABELS

# Given labels and files of the cells whose label is doubtful.
Pairs = frozenset[tuple[str, str]]


def read(file: Path, key: str) -> Pairs:
    """Read a table of doubtful labels, with the columns given_label and file; it may have no rows.

    Args:
        file: the table; its column `file` has file names, or paths as in tables.CELLS.
        key: the parameter that names the table, for the error message.

    Returns:
        Pairs of given label and file.

    Raises:
        UserError: there is no such table, or it has a label that is not in labels.LABELS.
    """
    table = tables.read_user_table(file, "given_label,file", key=key)
    unknown = table.given_label[~table.given_label.isin(LABELS)]
    if len(unknown):
        raise UserError(
            f"{file} has {unknown.iloc[0]!r} in given_label, but it must be {' or '.join(LABELS)}."
        )
    return frozenset(zip(table.given_label, table.file, strict=True))


def of_evaluation(settings: params.Evaluate) -> Pairs:
    """The table that evaluate.doubtful_labels names, as `read` reads it."""
    return read(Path(settings.doubtful_labels), "evaluate.doubtful_labels")


def of_training(settings: params.Train) -> Pairs:
    """The table that train.labels_file names, as `read` reads it."""
    return read(Path(settings.labels_file), "train.labels_file")


def is_doubtful(cells: pd.DataFrame, doubtful: Pairs) -> npt.NDArray[np.bool_]:
    """Which of `cells` (columns path and label) have a doubtful label, bool (n,).

    A cell whose label has been corrected since the list was made does not count.
    """
    pairs = zip(cells.label, cells.path, strict=True)
    flags = [(label, path) in doubtful or (label, Path(path).name) in doubtful for label, path in pairs]
    return np.array(flags, bool)
