"""Rank every cell's label by how likely it is wrong, from a cross-validation's out-of-fold predictions.

Writes the ranking, a count by patient, and a contact sheet for each class. The list in
evaluate.doubtful_labels is never used to make the ranking, only to score it. A ranking can be published only
if its cross-validation was trained without a list, or with the one that --contradicted writes.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from cleanlab.filter import find_label_issues
from PIL import Image, ImageDraw
from scipy.special import expit
from sklearn.metrics import average_precision_score

from experiments import experiment
from malaria import files, labels, params, tables
from malaria.cells import doubtful_labels
from malaria.command import new_parser, positive, run_and_exit
from malaria.errors import UserError
from malaria.evaluate import calibration
from malaria.evaluate.metrics import Floats, Ints
from malaria.paths import CROSSVAL, LABEL_AUDIT, LOCK, PARAMS, RAW

# The published table: all cells, the most suspect first.
RANKING = {"path": "str", "label": "str", "p_parasitized": "float64", "score": "float64"}
# Its first labels, in the format of train.labels_file.
CONTRADICTED = {"given_label": "str", "file": "str"}

# The share of a class's cells below its mark; and how many Uninfected cells give the patient's own median
# half the weight, beside the median of all patients.
_MARK, _HALF_WEIGHT = 0.85, 10

_COLUMNS, _SIDE, _CAPTION = 12, 96, 26  # of a contact sheet: cells per row, their side and caption in px


def main() -> None:
    parser = new_parser("experiments.label_audit", __doc__)
    parser.add_argument("--name", default="crossval", help="name of the cross-validation (crossval)")
    parser.add_argument("--out", type=Path, default=CROSSVAL / "label_audit.csv", help="file for the ranking")
    parser.add_argument("--cells", type=positive, default=120, help="cells on each contact sheet (120)")
    parser.add_argument("--publish", action="store_true", help=f"write {LABEL_AUDIT} too, without pictures")
    parser.add_argument("--mean", action="store_true", help=f"rank by the mean log-odds with {LABEL_AUDIT}")
    parser.add_argument(
        "--contradicted",
        type=Path,
        metavar="FILE",
        help=f"only write the labels that {LABEL_AUDIT} contradicts, for train.labels_file",
    )
    arguments = parser.parse_args()
    if arguments.contradicted:
        table = contradicted(tables.read(LABEL_AUDIT, RANKING))
        tables.write(table, arguments.contradicted, CONTRADICTED)
        print(f"{arguments.contradicted}: {len(table):,} labels that {LABEL_AUDIT} contradicts")
        return
    cells = experiment.predictions(arguments.name)
    if arguments.publish:
        check_unseen(experiment.revisions(arguments.name).values())
    if arguments.mean:
        cells = averaged(cells, tables.read(LABEL_AUDIT, RANKING))
    ranked = rank(cells)
    published = [LABEL_AUDIT] if arguments.publish else []
    for out in (arguments.out, *published):
        tables.write(ranked.round({"p_parasitized": 6, "score": 6}), out, RANKING)
        print(f"{out}: {len(ranked):,} cells, the most suspect first")
    print(summary(ranked))
    counts = arguments.out.with_name(f"{arguments.out.stem}_patients.csv")
    tables.write(by_patient(ranked), counts)
    print(f"{counts}: the same by patient")
    for label in labels.LABELS:
        sheet = arguments.out.with_name(f"{arguments.out.stem}_{label.lower()}.png")
        contact_sheet(ranked, label, RAW, arguments.cells, sheet)
        print(f"{sheet}: the most suspect of the {label}")
    _print_precision(ranked)


def check_unseen(revisions: Iterable[str]) -> None:
    """UserError if a fold was trained with a list of doubtful labels other than the ranking's own."""
    for revision in revisions:
        train = yaml.safe_load(experiment.read(revision, PARAMS))["train"]
        if train["noisy_labels"] == "keep":
            continue
        doubtful = _training_list(revision, Path(train["labels_file"]))
        if doubtful and doubtful != _published_contradictions(revision):
            raise UserError(
                f"{revision} was trained with the list {train['labels_file']}, and may not rank labels by "
                "it: cross-validate with an empty train.labels_file, or with the list that --contradicted "
                "writes, and name that with --name."
            )


def _published_contradictions(revision: str) -> doubtful_labels.Pairs:
    """The labels that are contradicted by the ranking that was published when a fold was trained."""
    content = experiment.read(revision, LABEL_AUDIT)
    table = contradicted(tables.read(LABEL_AUDIT, RANKING, content=content))
    return frozenset(zip(table.given_label, table.file, strict=True))


def _training_list(revision: str, file: Path) -> doubtful_labels.Pairs:
    """The doubtful labels that a fold was trained with: the content of `file` at that time."""
    if file.is_absolute():
        # The fold has no copy of a file outside of the repository, only its hash.
        stages = yaml.safe_load(experiment.read(revision, LOCK))["stages"]
        md5 = {dep["path"]: dep.get("md5") for dep in stages["train"]["deps"]}.get(str(file))
        if not file.is_file() or md5 != hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest():
            raise UserError(
                f"{file} is not the list that {revision} was trained with: cross-validate again, so that it "
                "can be told whether the ranking repeats it."
            )
        return doubtful_labels.read(file, "train.labels_file")
    with experiment.copy_of(revision, file) as copy:
        return doubtful_labels.read(copy, "train.labels_file")


def _print_precision(ranked: pd.DataFrame) -> None:
    settings = params.load_params().evaluate
    doubtful = doubtful_labels.is_doubtful(ranked, doubtful_labels.of_evaluation(settings))
    if doubtful.any():
        precision = average_precision_score(doubtful, ranked.score)
        source = f"the {doubtful.sum():,} labels in {settings.doubtful_labels}"
        print(f"Average precision for {source}: {precision:.3f}")


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
    contradiction = np.where(y == 1, -logits, logits)
    for value in (0, 1):
        contradiction[y == value] -= np.quantile(contradiction[y == value], _MARK)
    p = expit(logits)
    suspect = find_label_issues(y, np.stack([1 - p, p], axis=1), filter_by="confident_learning", n_jobs=1)
    ranked = cells.assign(score=expit(contradiction), suspect=suspect)
    return ranked.sort_values(["score", "path"], ascending=[False, True], ignore_index=True)


def averaged(cells: pd.DataFrame, ranked: pd.DataFrame) -> pd.DataFrame:
    """`cells` as `rank` takes them, each with the mean of its log-odds here and in an earlier ranking.

    Raises:
        UserError: the ranking lacks a cell.
    """
    earlier = cells.path.map(ranked.set_index("path").p_parasitized)
    if earlier.isna().any():
        raise UserError(
            f"The earlier ranking lacks {cells.path[earlier.isna()].iloc[0]}: rank the cells without it."
        )
    logits = [calibration.logit(p.to_numpy(np.float64)) for p in (cells.p_parasitized, earlier)]
    return cells.assign(p_parasitized=expit(np.mean(logits, axis=0)))


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
        cells = ranked[ranked.label == label]
        lines.append(f"{label}: {cells.suspect.sum():,} of {len(cells):,} labels are suspect")
        counts = cells[cells.suspect].patient.value_counts().head(8)
        if len(counts):
            patients = ", ".join(f"{patient} {count}" for patient, count in counts.items())
            lines.append(f"  most often of the patients {patients}")
    return "\n".join(lines)


def contact_sheet(ranked: pd.DataFrame, label: str, raw: Path, cells: int, out: Path) -> None:
    """Draw the most suspect cells of one class as a PNG, each with its rank, P(parasitised) and patient.

    Args:
        raw: the folder that the paths start from.

    Raises:
        UserError: a cell's image is not there.
    """
    suspects = ranked[ranked.label == label].head(cells)
    if missing := next((path for path in suspects.path if not (raw / path).is_file()), None):
        raise UserError(f"{raw / missing} is not there: bring the ranked cells with `dvc repro fetch`.")
    rows = -(-len(suspects) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, max(rows, 1) * (_SIDE + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    entries = zip(suspects.index, suspects.path, suspects.p_parasitized, suspects.patient, strict=True)
    for position, (number, path, p, patient) in enumerate(entries):
        left, top = position % _COLUMNS * _SIDE, position // _COLUMNS * (_SIDE + _CAPTION)
        with Image.open(raw / path) as image:
            sheet.paste(image.convert("RGB").resize((_SIDE - 4, _SIDE - 4)), (left + 2, top))
        draw.text((left + 2, top + _SIDE - 3), f"{number + 1}: P {p:.2f}", fill="black")
        draw.text((left + 2, top + _SIDE + 9), patient[:14], fill="black")
    with files.atomic_path(out) as part:
        sheet.save(part)


def _without_stain(logits: Floats, y: Ints, patient: pd.Series) -> Floats:
    """Log-odds without the shift that all cells of a patient share, float64 (n,)."""
    uninfected = pd.DataFrame({"patient": patient.to_numpy(), "logit": logits})[y == 0]
    patients = uninfected.groupby("patient").logit.agg(["median", "size"])
    weight = patients["size"] / (patients["size"] + _HALF_WEIGHT)
    shift = weight * (patients["median"] - uninfected.logit.median())
    corrected: Floats = logits - patient.map(shift).fillna(0.0).to_numpy(np.float64)
    return corrected


if __name__ == "__main__":
    run_and_exit(main)
