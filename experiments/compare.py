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
from malaria.command import end_with, options
from malaria.errors import UserError
from malaria.evaluate import paired
from malaria.paths import CROSSVAL

# One row for each figure. `cells`: those that it is of.
_COLUMNS = ["labels", "figure", "one", "other", "difference", "low", "high", "tells_apart", "cells"]

# Patients with fewer parasitised cells say little. A model is weak on a patient under this sensitivity.
_CELLS, _WEAK = 20, 0.90


def main() -> None:
    parser = options("experiments.compare", __doc__)
    parser.add_argument("other", type=Path, help="CSV with path (or file) and p_parasitized, out of fold")
    parser.add_argument("--name", default="crossval", help="name of the cross-validation (crossval)")
    parser.add_argument("--out", type=Path, default=CROSSVAL / "comparison.csv", help="file for every figure")
    arguments = parser.parse_args()
    settings = params.load_params().evaluate
    cells = paired.join(experiment.predictions(arguments.name), paired.read(arguments.other))
    if cells.empty:
        raise UserError(f"{arguments.other} predicts none of the cells: name a table that does.")
    doubtful = doubtful_labels.of_evaluation(settings)

    sides = {"pooled": cells, **{f"fold {number}": rows for number, rows in cells.groupby("fold")}}
    found = []
    for side, rows in sides.items():
        for version, differences in paired.differences(rows, settings, doubtful).items():
            for name, both in differences.items():
                gap = astuple(both.difference)
                found.append((version, name, both.one, both.other, *gap, both.tells_apart, side))
    compared = pd.DataFrame(found, columns=_COLUMNS)
    patients = cells.patient.nunique()
    print(f"{arguments.name} and {arguments.other}: {len(cells):,} cells of {patients:,} patients")
    for (of, labels), figures in compared.groupby(["cells", "labels"], sort=False):
        print(f"\n{of}, labels {str(labels).replace('_', ' ')}\n{_as_text(figures)}")
    tables.write(compared.round(6), arguments.out)
    print(f"\n{_weak(cells, frozenset())}")
    if doubtful:
        print(_weak(cells, doubtful))
    print(f"\nEvery figure: {arguments.out}")


def _as_text(figures: pd.DataFrame) -> str:
    """Rows of _COLUMNS, for a terminal."""
    rows = figures.assign(tells_apart=figures.tells_apart.map({True: "told apart", False: ""}))
    rows = rows.set_index(rows.figure.map(paired.FIGURES)).drop(columns=["labels", "figure", "cells"])
    rows.columns = pd.Index(["ours", "other", "ours minus other", "low", "high", ""])
    return rows.rename_axis(None).to_string(float_format="{:.4f}".format, na_rep="")


def _weak(cells: pd.DataFrame, doubtful: doubtful_labels.Pairs) -> str:
    """The patients with many parasitised cells on whom ours is weak, in words."""
    found = paired.patients(cells, _CELLS, doubtful)
    weak = found[found.one < _WEAK]
    rows = zip(weak.patient, weak.one, weak.other, weak.cells, strict=True)
    named = ", ".join(
        f"{name} {one:.3f} (other {other:.3f}, {count} cells)" for name, one, other, count in rows
    )
    return (
        f"{'Without doubtful labels' if doubtful else 'Labels as given'}: of {len(found)} patients with at "
        f"least {_CELLS} parasitised cells, {len(weak)} under {_WEAK:.2f} sensitivity "
        f"(other: {(found.other < _WEAK).sum()})" + (f": {named}" if named else "")
    )


if __name__ == "__main__":
    end_with(main)
