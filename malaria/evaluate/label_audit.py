"""Rank labels by how likely they are wrong, with models that never saw the cell's patient."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab.filter import find_label_issues
from PIL import Image, ImageDraw
from scipy.special import expit

from malaria import labels
from malaria.errors import UserError
from malaria.evaluate import calibration
from malaria.files import atomic_path

# The published table: all cells, the most suspect first.
RANKING = {"path": "str", "label": "str", "p_parasitized": "float64", "score": "float64"}
# Its first labels, in the format of train.labels_file.
CONTRADICTED = {"given_label": "str", "file": "str"}

# The share of a class's cells below its mark; and how many Uninfected cells give the patient's own median
# half the weight, beside the median of all patients.
_MARK, _HALF = 0.85, 10

_COLUMNS, _SIDE, _CAPTION = 12, 96, 26  # of a contact sheet: cells per row, their side and caption in px


def rank(cells: pd.DataFrame) -> pd.DataFrame:
    """Rank cells by how suspect their labels are.

    What counts is how far a cell's log-odds contradict its label, after two corrections that need no list of
    wrong labels. First, a patient's stain shifts all log-odds of that patient alike, so they are measured
    from the median of the patient's cells labelled Uninfected. Second, a model is surer of one class than of
    the other, so each class's cells are compared with the mark below which 85 % of them lie. Wrong labels are
    rarer than the rest, and do not move it.

    Args:
        cells: columns path, label, patient and p_parasitized, out of fold.

    Returns:
        `cells`, the most suspect first, with `score`, float64 in [0, 1], which is 0.5 at the class's mark and
        not a probability; and `suspect`, whether confident learning calls the label wrong (Northcutt et al.
        2021, doi:10.1613/jair.1.12125).

    Raises:
        UserError: the cells are all of one class.
    """
    y = labels.values(cells.label)
    if len(np.unique(y)) < 2:
        raise UserError("The out-of-fold cells are all of one class: a label audit needs both.")
    logits = _without_stain(calibration.logit(cells.p_parasitized.to_numpy(np.float64)), y, cells.patient)
    against = np.where(y == 1, -logits, logits)
    for value in (0, 1):
        against[y == value] -= np.quantile(against[y == value], _MARK)
    p = expit(logits)
    suspect = find_label_issues(y, np.stack([1 - p, p], axis=1), filter_by="confident_learning", n_jobs=1)
    ranked = cells.assign(score=expit(against), suspect=suspect)
    return ranked.sort_values(["score", "path"], ascending=[False, True], ignore_index=True)


def averaged(cells: pd.DataFrame, ranked: pd.DataFrame) -> pd.DataFrame:
    """`cells` as `rank` takes them, each with the mean of its log-odds here and in an earlier ranking.

    Raises:
        UserError: the ranking lacks a cell.
    """
    before = cells.path.map(ranked.set_index("path").p_parasitized)
    if before.isna().any():
        raise UserError(
            f"The earlier ranking lacks {cells.path[before.isna()].iloc[0]}: rank the cells without it."
        )
    both = [calibration.logit(p.to_numpy(np.float64)) for p in (cells.p_parasitized, before)]
    return cells.assign(p_parasitized=expit(np.mean(both, axis=0)))


def contradicted(ranked: pd.DataFrame) -> pd.DataFrame:
    """The first labels of a ranking (RANKING), as many as its probabilities contradict (CONTRADICTED)."""
    wrong = (ranked.p_parasitized >= 0.5) != (ranked.label == labels.PARASITIZED)
    return pd.DataFrame({"given_label": ranked.label, "file": ranked.path}).head(int(wrong.sum()))


def by_patient(ranked: pd.DataFrame) -> pd.DataFrame:
    """Suspect labels by patient and label, most first: columns patient, label, cells, suspect and share."""
    groups = ranked.groupby(["patient", "label"], as_index=False)
    counts = groups.agg(cells=("path", "size"), suspect=("suspect", "sum"), share=("suspect", "mean"))
    return counts.round({"share": 4}).sort_values(
        ["suspect", "patient", "label"], ascending=[False, True, True], ignore_index=True
    )


def summary(ranked: pd.DataFrame) -> str:
    """How many labels of each class and of which patients are suspect, as text."""
    lines = []
    for label in labels.LABELS:
        of_class = ranked[ranked.label == label]
        lines.append(f"{label}: {of_class.suspect.sum():,} of {len(of_class):,} labels are suspect")
        worst = of_class[of_class.suspect].patient.value_counts()
        shown = ", ".join(f"{patient} {count}" for patient, count in worst.head(8).items())
        if shown:
            lines.append(f"  most often of the patients {shown}")
    return "\n".join(lines)


def contact_sheet(ranked: pd.DataFrame, label: str, raw: Path, cells: int, out: Path) -> None:
    """Draw the most suspect cells of one class as a PNG, each with its rank, P(parasitised) and patient.

    Args:
        raw: the folder that the paths start from.

    Raises:
        UserError: a cell's image is not there.
    """
    chosen = ranked[ranked.label == label].head(cells)
    if missing := next((path for path in chosen.path if not (raw / path).is_file()), None):
        raise UserError(f"{raw / missing} is not there: bring the ranked cells with `dvc repro fetch`.")
    rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, max(rows, 1) * (_SIDE + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    shown = zip(chosen.index, chosen.path, chosen.p_parasitized, chosen.patient, strict=True)
    for place, (number, path, p, patient) in enumerate(shown):
        left, top = place % _COLUMNS * _SIDE, place // _COLUMNS * (_SIDE + _CAPTION)
        with Image.open(raw / path) as image:
            sheet.paste(image.convert("RGB").resize((_SIDE - 4, _SIDE - 4)), (left + 2, top))
        draw.text((left + 2, top + _SIDE - 3), f"{number + 1}: P {p:.2f}", fill="black")
        draw.text((left + 2, top + _SIDE + 9), patient[:14], fill="black")
    with atomic_path(out) as part:
        sheet.save(part)


def _without_stain(
    logits: npt.NDArray[np.float64], y: npt.NDArray[np.int64], patient: pd.Series
) -> npt.NDArray[np.float64]:
    """Log-odds without the shift that all cells of a patient share, float64 (n,)."""
    healthy = pd.DataFrame({"patient": patient.to_numpy(), "logit": logits})[y == 0]
    of_patient = healthy.groupby("patient").logit.agg(["median", "size"])
    weight = of_patient["size"] / (of_patient["size"] + _HALF)
    shift = weight * (of_patient["median"] - healthy.logit.median())
    without: npt.NDArray[np.float64] = logits - patient.map(shift).fillna(0.0).to_numpy(np.float64)
    return without
