"""What a smaller precision costs: exported networks beside the trained ones, out of fold.

Takes each fold's trained network of a cross-validation, exports it at every precision, and compares what it
says of the fold's test cells, which it never saw, with the trained network itself: decisions at 0.5, AUC,
and AUC without the labels that `evaluate.doubtful_labels` lists.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from experiments import folds as experiment
from malaria import labels, paths, tables
from malaria.cells import doubtful_labels, packed
from malaria.command import end_with
from malaria.params import load_params

PRECISIONS = ("float32", "float16", "int8")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """Of a fold at one precision: the file's `size` in bytes; `decisions` that differ of `cells`; how much
    AUC and AUC without doubtful labels change; the largest `difference` in probability.
    """

    size: int
    cells: int
    decisions: int
    auc: float
    auc_sure: float
    difference: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.precision", description=__doc__)
    parser.add_argument("--name", default="crossval", help="of the cross-validation (crossval)")
    arguments = parser.parse_args()
    judged = experiment.predictions(arguments.name)
    cells = packed.load(paths.PACKED)
    found: dict[str, list[Cost]] = {precision: [] for precision in PRECISIONS}
    print(
        f"{'fold':>5}{'precision':>10}{'bytes':>10}{'decisions that differ':>25}{'AUC':>12}"
        f"{'without doubtful':>18}{'largest in P':>14}"
    )
    for fold in sorted(judged.fold.unique()):
        for precision, cost in _of_fold(f"{arguments.name}-{fold}", cells).items():
            found[precision].append(cost)
            print(f"{fold:>5}{precision:>10}{_line(cost)}", flush=True)
    for precision, costs in found.items():
        print(f"{'all':>5}{precision:>10}{_line(together(costs))}")
    return 0


def cost(
    size: int, p: Floats, p_trained: Floats, y: npt.NDArray[np.int64], sure: npt.NDArray[np.bool_]
) -> Cost:
    """The exported network's `p` beside the trained one's, of cells with labels `y`, `sure` or in doubt."""

    def auc(of: Floats, among: npt.NDArray[np.bool_]) -> float:
        return float(roc_auc_score(y[among], of[among]))

    everything = np.ones(len(y), dtype=bool)
    return Cost(
        size,
        len(y),
        int(((p >= 0.5) != (p_trained >= 0.5)).sum()),
        auc(p, everything) - auc(p_trained, everything),
        auc(p, sure) - auc(p_trained, sure),
        float(np.abs(p - p_trained).max()),
    )


def together(costs: list[Cost]) -> Cost:
    """All folds: cells and decisions summed, of the rest the largest."""
    return Cost(
        max(cost.size for cost in costs),
        sum(cost.cells for cost in costs),
        sum(cost.decisions for cost in costs),
        max((cost.auc for cost in costs), key=abs),
        max((cost.auc_sure for cost in costs), key=abs),
        max(cost.difference for cost in costs),
    )


def _of_fold(revision: str, cells: packed.Packed) -> dict[str, Cost]:
    # TensorFlow takes seconds to import; --help should not wait for it.
    from malaria.bundle import build
    from malaria.train import network

    settings = load_params()
    splits = tables.read(paths.SPLITS, tables.SPLITS, content=experiment.read(revision, paths.SPLITS))
    tested = splits[splits.split == tables.TEST]
    asked = cells.prepared(packed.rows_of(cells, tested.path))
    learnt = cells.prepared(packed.rows_of(cells, splits.path[splits.split == tables.TRAIN]))
    y = labels.values(tested.label)
    listed = doubtful_labels.read(Path(settings.evaluate.doubtful_labels), "evaluate.doubtful_labels")
    sure = ~doubtful_labels.among(tested, listed)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / paths.MODEL.name
        experiment.get(revision, paths.MODEL, file)
        model = network.load(file)
        p_trained = network.predict(model, np.stack([cell.pixels for cell in asked]))
        for precision in PRECISIONS:
            changed = settings.model_copy(
                update={"export": settings.export.model_copy(update={"precision": precision})}
            )
            exported = build.export(model, learnt, changed, paths.PARAMS)
            p = exported.model.run_prepared(asked).p_network
            found[precision] = cost(len(exported.network), p, p_trained, y, sure)
    return found


def _line(cost: Cost) -> str:
    share = cost.decisions / cost.cells
    return (
        f"{cost.size:>10,}{cost.decisions:>7} of {cost.cells:>6,} ({share:.2%}) "
        f"{cost.auc:>+12.5f}{cost.auc_sure:>+18.5f}{cost.difference:>14.4f}"
    )


if __name__ == "__main__":
    end_with(main)
