"""Rank every cell's label by how likely it is wrong, from a cross-validation's out-of-fold predictions.

Writes the ranking, a count by patient, and a contact sheet for each class. The list in
evaluate.doubtful_labels is never used to make the ranking, only to score it. A ranking can be published only
if its cross-validation was trained without a list, or with the one that --contradicted writes.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

import pandas as pd
import yaml
from sklearn.metrics import average_precision_score

from experiments import folds as experiment
from malaria import files, tables
from malaria.cells import doubtful_labels
from malaria.command import end_with, how_many
from malaria.errors import UserError
from malaria.evaluate import label_audit
from malaria.labels import LABELS
from malaria.params import load_params
from malaria.paths import CROSSVAL, LABEL_AUDIT, LOCK, PARAMS, RAW


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.label_audit", description=__doc__)
    parser.add_argument("--name", default="crossval", help="name of the cross-validation (crossval)")
    parser.add_argument("--out", type=Path, default=CROSSVAL / "label_audit.csv", help="file for the ranking")
    parser.add_argument("--cells", type=how_many, default=120, help="cells on each contact sheet (120)")
    parser.add_argument(
        "--publish", action="store_true", help=f"write the ranking to {LABEL_AUDIT} too, without pictures"
    )
    parser.add_argument(
        "--mean", action="store_true", help=f"rank by the mean log-odds of NAME and {LABEL_AUDIT}"
    )
    parser.add_argument(
        "--contradicted",
        type=Path,
        metavar="FILE",
        help=f"only write the labels that {LABEL_AUDIT} contradicts, for train.labels_file",
    )
    arguments = parser.parse_args()
    if arguments.contradicted:
        found = label_audit.contradicted(tables.read(LABEL_AUDIT, label_audit.RANKING))
        tables.write(found, arguments.contradicted, label_audit.CONTRADICTED)
        print(f"{arguments.contradicted}: {len(found):,} labels that {LABEL_AUDIT} contradicts")
        return
    cells = experiment.predictions(arguments.name)
    if arguments.publish:
        check_unseen(arguments.name, sorted(cells.fold.unique()))
    if arguments.mean:
        cells = label_audit.averaged(cells, tables.read(LABEL_AUDIT, label_audit.RANKING))
    ranked = label_audit.rank(cells)
    published = [LABEL_AUDIT] if arguments.publish else []
    for out in (arguments.out, *published):
        tables.write(ranked.round({"p_parasitized": 6, "score": 6}), out, label_audit.RANKING)
        print(f"{out}: {len(ranked):,} cells, the most suspect first")
    print(label_audit.summary(ranked))
    counts = arguments.out.with_name(f"{arguments.out.stem}_patients.csv")
    with files.atomic_path(counts) as part:
        label_audit.by_patient(ranked).to_csv(part, index=False, lineterminator="\n")
    print(f"{counts}: the same by patient")
    for label in LABELS:
        sheet = arguments.out.with_name(f"{arguments.out.stem}_{label.lower()}.png")
        label_audit.contact_sheet(ranked, label, RAW, arguments.cells, sheet)
        print(f"{sheet}: the most suspect of the {label}")
    _compare(ranked)


def check_unseen(name: str, folds: list[int]) -> None:
    """UserError if a fold was trained with a list of doubtful labels other than the ranking's own."""
    for fold in folds:
        revision = f"{name}-{fold}"
        train = yaml.safe_load(experiment.read(revision, PARAMS))["train"]
        if train["noisy_labels"] == "keep":
            continue
        listed = _listed(revision, Path(train["labels_file"]))
        if listed and listed != _contradicted(revision):
            raise UserError(
                f"{revision} was trained with the list {train['labels_file']}, and may not rank labels by "
                "it: cross-validate with an empty train.labels_file, or with the list that --contradicted "
                "writes, and name that with --name."
            )


def _contradicted(revision: str) -> frozenset[tuple[str, str]]:
    """The labels that are contradicted by the ranking that was published when a fold was trained."""
    content = experiment.read(revision, LABEL_AUDIT)
    found = label_audit.contradicted(tables.read(LABEL_AUDIT, label_audit.RANKING, content=content))
    return frozenset(zip(found.given_label, found.file, strict=True))


def _listed(revision: str, file: Path) -> frozenset[tuple[str, str]]:
    """The doubtful labels that a fold was trained with: the content of `file` at that time."""
    if file.is_absolute():
        # The fold has no copy of a file outside of the repository, only its hash.
        stages = yaml.safe_load(experiment.read(revision, LOCK))["stages"]
        then = {dep["path"]: dep.get("md5") for dep in stages["train"]["deps"]}.get(str(file))
        if not file.is_file() or then != hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest():
            raise UserError(
                f"{file} is not the list that {revision} was trained with: cross-validate again, so that it "
                "can be told whether the ranking repeats it."
            )
        return doubtful_labels.read(file, "train.labels_file")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, file.name)
        experiment.get(revision, file, copy)
        return doubtful_labels.read(copy, "train.labels_file")


def _compare(ranked: pd.DataFrame) -> None:
    file = Path(load_params().evaluate.doubtful_labels)
    doubted = doubtful_labels.among(ranked, doubtful_labels.read(file, "evaluate.doubtful_labels"))
    if doubted.any():
        precision = average_precision_score(doubted, ranked.score)
        print(f"Average precision for the {doubted.sum():,} labels in {file}: {precision:.3f}")


if __name__ == "__main__":
    end_with(main)
