"""Rank every cell's label by how likely it is wrong, from a cross-validation's out-of-fold predictions.

Writes the ranking and a contact sheet per class. The list of labels in doubt that evaluate names is
never used to make the ranking, only to score it.
"""

import argparse
from pathlib import Path

import pandas as pd

from malaria import doubts, label_audit, tables
from malaria.command import end_with
from malaria.errors import UserError
from malaria.labels import LABELS
from malaria.params import load_params
from malaria.paths import CROSSVAL, RAW


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.label_audit", description=__doc__)
    parser.add_argument("--name", default="crossval", help="of the cross-validation (crossval)")
    parser.add_argument("--out", type=Path, default=CROSSVAL / "label_audit.csv", help="the ranking")
    parser.add_argument("--cells", type=int, default=120, help="on each contact sheet (120)")
    arguments = parser.parse_args()
    predictions = CROSSVAL / f"{arguments.name}.csv"
    if not predictions.is_file():
        raise UserError(f"{predictions} is missing: run `make crossval` first, or name another with --name.")
    ranked = label_audit.rank(tables.read(predictions, tables.OUT_OF_FOLD))
    tables.write(ranked.round({"p_parasitized": 6, "score": 6}), arguments.out, label_audit.RANKING)
    print(f"{label_audit.summary(ranked)}\n{arguments.out}: {len(ranked):,} cells, the most suspect first")
    for label in LABELS:
        sheet = arguments.out.with_name(f"{arguments.out.stem}_{label.lower()}.png")
        label_audit.contact_sheet(ranked, label, RAW, arguments.cells, sheet)
        print(f"{sheet}: the most suspect of the {label}")
    _compare(ranked)
    return 0


def _compare(ranked: pd.DataFrame) -> None:
    file = Path(load_params().evaluate.doubtful_labels)
    doubted = doubts.among(ranked, doubts.read(file, "evaluate.doubtful_labels"))
    if doubted.any():
        precision = label_audit.average_precision(ranked, doubted)
        print(f"Average precision for the {doubted.sum():,} labels in {file}: {precision:.3f}")


if __name__ == "__main__":
    end_with(main)
