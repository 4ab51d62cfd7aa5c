"""Compare two models on the same cells: differences of figures, with 95 % intervals over patients.

Both models are judged under the same resamples of patients, so that what makes a patient hard for both
cancels out. If an interval excludes zero, patients like these tell the two models apart.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from malaria import labels, params, tables
from malaria.cells import doubtful_labels
from malaria.errors import UserError
from malaria.evaluate import evaluation, metrics

# Figures that `differences` gives: name, and in words.
FIGURES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "macro_auc": "AUC, mean of patients",
    "macro_sensitivity": "sensitivity, mean of patients",
    "worst_decile_sensitivity": "sensitivity, worst tenth of them",
}


@dataclass(frozen=True)
class Difference:
    """A figure of both models, and `one` minus `other` with its interval; nan if it cannot be given."""

    one: float
    other: float
    difference: metrics.Estimate

    @property
    def tells_apart(self) -> bool:
        """Whether the interval excludes zero; False if there is no interval."""
        return self.difference.low > 0 or self.difference.high < 0


def read(file: Path) -> pd.DataFrame:
    """Read a table of predictions: a column path or file, p_parasitized, and any others, as texts.

    p_parasitized is nan where it is empty, as `predict` writes it for unreadable and rejected images.

    Raises:
        UserError: there is no such table, or it lacks these columns.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing: name a table of predictions.")
    table = tables.read_user_table(file, "path,p_parasitized", "file,p_parasitized")
    try:
        return table.assign(p_parasitized=table.p_parasitized.replace("", "nan").astype("float64"))
    except ValueError as error:
        raise UserError(f"{file} is no CSV table of predictions ({error}): correct p_parasitized.") from None


def join(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The cells for which both tables have a probability, sorted by path.

    Args:
        one: columns path, patient, label and p_parasitized, as in tables.PREDICTIONS or OUT_OF_FOLD.
        other: columns path, or file (a name without folders), and p_parasitized.

    Returns:
        Columns path, patient, label, one and other (the two probabilities), and any others of `one`.

    Raises:
        UserError: a table has two rows for one cell.
    """
    key = "path" if "path" in other else "file"
    names = one.path if key == "path" else one.path.map(lambda path: Path(path).name)
    for repeated in (names[names.duplicated()], other[key][other[key].duplicated()]):
        if len(repeated):
            raise UserError(f"{repeated.iloc[0]} stands twice in a table of predictions: a cell has one row.")
    p = pd.Series(other.p_parasitized.to_numpy(np.float64), index=other[key])
    joined = one.rename(columns={"p_parasitized": "one"}).assign(other=names.map(p).to_numpy(np.float64))
    return joined[joined.one.notna() & joined.other.notna()].sort_values("path", ignore_index=True)


def differences(
    cells: pd.DataFrame, settings: params.Evaluate, doubtful: doubtful_labels.Pairs = frozenset()
) -> dict[str, dict[str, Difference]]:
    """The figures of `FIGURES` of two models on the same cells, decided at 0.5.

    Args:
        cells: columns path, patient, label, one and other, as `join` gives them.
        settings: its resamples, seed, and least cells of the class for a patient to count.
        doubtful: the doubtful labels, as `doubtful_labels.read` gives them.

    Returns:
        By version of the labels (evaluation.AS_GIVEN and, if any label is doubtful, WITHOUT and FLIPPED),
        then by figure.
    """
    in_doubt = doubtful_labels.is_doubtful(cells, doubtful)
    mask = in_doubt if in_doubt.any() else None
    versions = [evaluation.versions(sample, mask) for sample in _samples(cells, settings)]
    by_version = {}
    for version in versions[0]:
        one, other = (_figures(samples[version][0], settings.min_cells) for samples in versions)
        by_version[version] = {name: _difference(one[name], other[name]) for name in FIGURES}
    return by_version


def at_specificity(cells: pd.DataFrame, settings: params.Evaluate, specificity: float) -> Difference:
    """Sensitivity of both models at a `specificity` that is reached on these same cells.

    Each model's threshold is set anew under each resample of patients: this compares how well the models rank
    cells, not how well a threshold that was fixed elsewhere carries over.
    """
    one, other = (metrics.sensitivity_at(sample, specificity) for sample in _samples(cells, settings))
    return _difference(one, other)


def calibration(cells: pd.DataFrame, settings: params.Evaluate) -> Difference:
    """Expected calibration error of both models, in settings.bins bins."""
    one, other = (metrics.ece(sample, settings.bins) for sample in _samples(cells, settings))
    return _difference(one, other)


def patients(
    cells: pd.DataFrame, min_cells: int, doubtful: doubtful_labels.Pairs = frozenset()
) -> pd.DataFrame:
    """Both models' sensitivity on each patient with at least `min_cells` parasitised cells.

    Args:
        cells: as `differences` takes them.
        doubtful: the labels that are left out.

    Returns:
        Columns patient, cells, one and other, the worst of `one` first.
    """
    cells = cells[(cells.label == labels.PARASITIZED) & ~doubtful_labels.is_doubtful(cells, doubtful)]
    by_patient = cells.assign(one=cells.one >= 0.5, other=cells.other >= 0.5).groupby("patient")
    table = by_patient.agg(cells=("path", "size"), one=("one", "mean"), other=("other", "mean"))
    return table[table.cells >= min_cells].reset_index().sort_values(["one", "patient"], ignore_index=True)


def _figures(sample: metrics.Sample, min_cells: int) -> dict[str, metrics.Floats]:
    """The figures of one model, each float64 (1 + resamples,)."""
    return metrics.ranking(sample) | metrics.rates(sample) | evaluation.patient_figures(sample, min_cells)


def _samples(cells: pd.DataFrame, settings: params.Evaluate) -> tuple[metrics.Sample, metrics.Sample]:
    """Both models' probabilities of the same cells, under the same resamples of patients."""
    one = metrics.sample(cells, cells.one, settings)
    return one, replace(one, p=cells.other.to_numpy(np.float64))


def _difference(one: metrics.Floats, other: metrics.Floats) -> Difference:
    """The difference of two models' figures under the same resamples, each float64 (1 + resamples,)."""
    return Difference(float(one[0]), float(other[0]), metrics.estimate(one - other))
