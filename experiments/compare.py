"""Compare a cross-validation with another model's predictions of the same cells.

Prints the figures of both and their differences (ours minus the other's), with 95 % intervals from the same
resamples of patients for both: on labels as given, without doubtful ones and with them flipped, pooled and
fold by fold. Also lists the patients on whom ours is weak.
"""

from dataclasses import astuple
from pathlib import Path

import pandas as pd

from experiments import experiment
from malaria import params, tables
from malaria.cells import doubtful_labels
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError
from malaria.evaluate import paired
from malaria.paths import CROSSVAL

# One row for each figure. `cells` says which cells it is of: pooled, or a fold's.
_COLUMNS = ["labels", "figure", "one", "other", "difference", "low", "high", "tells_apart", "cells"]

# Patients with fewer parasitised cells say little. A model is weak on a patient under this sensitivity.
_MIN_CELLS, _WEAK_SENSITIVITY = 20, 0.90


def main() -> None:
    parser = new_parser("experiments.compare", __doc__)
    parser.add_argument("other", type=Path, help="CSV with path (or file) and p_parasitized, out of fold")
    parser.add_argument("--name", default="crossval", help="name of the cross-validation (crossval)")
    parser.add_argument("--out", type=Path, default=CROSSVAL / "comparison.csv", help="file for every figure")
    arguments = parser.parse_args()
    settings = params.load_params().evaluate
    cells = paired.join(experiment.predictions(arguments.name), paired.read(arguments.other))
    if cells.empty:
        raise UserError(f"{arguments.other} predicts none of the cells: name a table that does.")
    doubtful = doubtful_labels.of_evaluation(settings)

    subsets = {"pooled": cells, **{f"fold {number}": subset for number, subset in cells.groupby("fold")}}
    rows = []
    for key, subset in subsets.items():
        for version, differences in paired.differences(subset, settings, doubtful).items():
            for figure, pair in differences.items():
                gap = astuple(pair.difference)
                rows.append((version, figure, pair.one, pair.other, *gap, pair.tells_apart, key))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    patients = cells.patient.nunique()
    print(f"{arguments.name} and {arguments.other}: {len(cells):,} cells of {patients:,} patients")
    for (name, labels), figures in table.groupby(["cells", "labels"], sort=False):
        print(f"\n{name}, labels {str(labels).replace('_', ' ')}\n{_as_text(figures)}")
    tables.write(table.round(6), arguments.out)
    print(f"\n{_weak_patients(cells, frozenset())}")
    if doubtful:
        print(_weak_patients(cells, doubtful))
    print(f"\nEvery figure: {arguments.out}")


def _as_text(figures: pd.DataFrame) -> str:
    """Rows of _COLUMNS, for a terminal."""
    rows = figures.assign(tells_apart=figures.tells_apart.map({True: "told apart", False: ""}))
    rows = rows.set_index(rows.figure.map(paired.FIGURES)).drop(columns=["labels", "figure", "cells"])
    rows.columns = pd.Index(["ours", "other", "ours minus other", "low", "high", ""])
    return rows.rename_axis(None).to_string(float_format="{:.4f}".format, na_rep="")


def _weak_patients(cells: pd.DataFrame, doubtful: doubtful_labels.Pairs) -> str:
    """The patients with many parasitised cells on whom ours is weak, in words."""
    patients = paired.patients(cells, _MIN_CELLS, doubtful)
    weak = patients[patients.one < _WEAK_SENSITIVITY]
    rows = zip(weak.patient, weak.one, weak.other, weak.cells, strict=True)
    names = [f"{name} {one:.3f} (other {other:.3f}, {count} cells)" for name, one, other, count in rows]
    return (
        f"{'Without doubtful labels' if doubtful else 'Labels as given'}: of {len(patients)} patients with "
        f"at least {_MIN_CELLS} parasitised cells, {len(weak)} under {_WEAK_SENSITIVITY:.2f} sensitivity "
        f"(other: {(patients.other < _WEAK_SENSITIVITY).sum()})" + (f": {', '.join(names)}" if names else "")
    )


if __name__ == "__main__":
    run_and_exit(main)
