"""Cross-validate the recipe of params.yaml by patient, with one DVC experiment for each fold.

Each fold is an experiment `NAME-<fold>`; a fold for which nothing has changed comes from DVC's run cache.
Prints the figures of each fold as it ends, their mean and standard deviation, and the figures of all
out-of-fold cells pooled. Writes the predictions of these cells.

With --leave-out laboratories it trains once without each set of laboratories.folder, and evaluates that
network on the set. This shows how good the recipe is in a laboratory that the network never saw.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments import experiment
from malaria import files, params, paths, tables
from malaria.cells import doubtful_labels, splits
from malaria.command import new_parser, positive, run_and_exit
from malaria.errors import UserError
from malaria.evaluate import evaluation
from malaria.fetch import laboratories
from malaria.predict import external

FIGURES = ("auc", "accuracy", "sensitivity", "specificity", "macro_sensitivity")


def main() -> None:
    parser = new_parser("experiments.crossval", __doc__)
    parser.add_argument("--folds", type=int, default=5, help="number of folds, if split.file has none (5)")
    parser.add_argument("--name", default="crossval", help="name of experiments and file (crossval)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set a parameter, as dvc exp run -S"
    )
    parser.add_argument("--leave-out", choices=["laboratories"], help="each of laboratories.folder in turn")
    parser.add_argument("--workers", type=positive, default=1, help="folds that run at once (1)")
    arguments = parser.parse_args()
    settings = params.load_params()
    folds = splits.folds_in(Path(settings.split.file))
    changes = [*experiment.outside_git(settings), *arguments.set]
    if not folds:
        if arguments.folds < 3:
            raise UserError(f"--folds is {arguments.folds}, but must be at least 3.")
        folds = list(range(arguments.folds))
        changes.append(f"split.folds={arguments.folds}")
    if arguments.leave_out:
        _leave_out_each(arguments.name, settings, [*changes, f"split.fold={folds[0]}"])
        return

    def run(fold: int) -> str:
        return experiment.run(f"{arguments.name}-{fold}", [f"split.fold={fold}", *changes])

    fold_tables, figures = [], []
    print(f"{'fold':>6} " + " ".join(f"{name:>18}" for name in FIGURES))
    for fold, revision in experiment.parallel(run, folds, arguments.workers):
        figures.append(figures_of(json.loads(experiment.read(revision, paths.METRICS))))
        print(f"{fold:>6} " + " ".join(f"{value:18.4f}" for value in figures[-1]), flush=True)
        fold_tables.append(experiment.fold_predictions(revision, fold))
    for name, values in (("mean", np.mean(figures, axis=0)), ("sd", np.std(figures, axis=0, ddof=1))):
        print(f"{name:>6} " + " ".join(f"{value:18.4f}" for value in values))
    pooled = pd.concat(fold_tables).sort_values("path", ignore_index=True)
    out = paths.CROSSVAL / f"{arguments.name}.csv"
    tables.write(pooled, out, tables.OUT_OF_FOLD)
    # Probabilities are calibrated by their fold's temperature already.
    scored = pooled.assign(p_network=pooled.p_parasitized)
    doubtful = doubtful_labels.of_evaluation(settings.evaluate)
    scores = evaluation.score(scored, evaluation.Fitted(1.0, {}), settings.evaluate, doubtful)
    print("\npooled, out of fold:\n" + evaluation.as_text(scores))
    print(f"\nEvery cell's prediction: {out}")


def figures_of(metrics: dict[str, Any]) -> npt.NDArray[np.float64]:
    """`FIGURES` of the test cells, float64 (5,); nan for one that cannot be given, as for lack of a class."""
    return np.array([metrics[tables.TEST][name]["value"] for name in FIGURES], dtype=np.float64)


def _leave_out_each(name: str, settings: params.Params, changes: Sequence[str]) -> None:
    """Train once without each set of other laboratories, and evaluate that network on the set."""
    sets = laboratories.to_train_on(settings.laboratories)
    if not sets:
        raise UserError(f"{settings.laboratories.folder} holds no set of cells to leave out: put some there.")
    scores = {}
    for laboratory, path in sets.items():
        names = ",".join(f"'{key}'" for key in [*settings.laboratories.leave_out, laboratory])
        changed = [*changes, f"laboratories.leave_out=[{names}]"]
        revision = experiment.run(f"{name}-without-{laboratory}", changed)
        scores[laboratory] = external.judge(experiment.bundle_of(revision), path, settings)
        print(external.as_text({laboratory: scores[laboratory]}), flush=True)
    files.write_json(paths.CROSSVAL / f"{name}-laboratories.json", scores)


if __name__ == "__main__":
    run_and_exit(main)
