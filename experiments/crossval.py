"""Cross-validate the recipe of params.yaml by patient, through DVC experiments, one a fold.

Each fold is an experiment `NAME-<fold>`; a fold that nothing has changed for comes from DVC's run
cache. Prints every fold, mean and standard deviation, and the figures of all out-of-fold cells pooled,
and writes these cells' predictions.
"""

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import dvc.api
import numpy as np
import pandas as pd

from malaria import doubts, evaluation, tables
from malaria.command import end_with
from malaria.errors import UserError
from malaria.params import Params, load_params
from malaria.paths import CROSSVAL, METRICS, PREDICTIONS

FIGURES = ("auc", "accuracy", "sensitivity", "specificity", "macro_sensitivity")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.crossval", description=__doc__)
    parser.add_argument("--folds", type=int, default=5, help="how many, where split.file names none (5)")
    parser.add_argument("--name", default="crossval", help="of the experiments, and of the file (crossval)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter, as dvc exp run -S has it",
    )
    arguments = parser.parse_args()
    settings = load_params()
    folds, sets = _folds_of_file(settings), [*_outside(settings), *arguments.set]
    if folds is None:
        if arguments.folds < 3:
            raise UserError(f"--folds is {arguments.folds}, but must be at least 3.")
        folds = list(range(arguments.folds))
        sets.append(f"split.folds={arguments.folds}")
    oof, rows = [], []
    print(f"{'fold':>6} " + " ".join(f"{name:>18}" for name in FIGURES))
    for fold in folds:
        revision = _run(arguments.name, fold, sets)
        test = json.loads(dvc.api.read(str(METRICS), rev=revision))[tables.TEST]
        rows.append([test[name]["value"] for name in FIGURES])
        print(f"{fold:>6} " + " ".join(f"{value:18.4f}" for value in rows[-1]), flush=True)
        predictions = pd.read_csv(io.StringIO(dvc.api.read(str(PREDICTIONS), rev=revision)))
        oof.append(predictions[predictions.split == tables.TEST].assign(fold=fold))
    figures = np.array(rows, dtype=np.float64)
    for name, values in (("mean", figures.mean(axis=0)), ("sd", figures.std(axis=0, ddof=1))):
        print(f"{name:>6} " + " ".join(f"{value:18.4f}" for value in values))
    pooled = pd.concat(oof, ignore_index=True).sort_values("path", ignore_index=True)
    out = CROSSVAL / f"{arguments.name}.csv"
    tables.write(pooled, out, tables.OUT_OF_FOLD)
    # Each fold's probabilities carry that fold's temperature already.
    scored = pooled.assign(p_network=pooled.p_parasitized)
    doubted = doubts.read(Path(settings.evaluate.doubtful_labels), "evaluate.doubtful_labels")
    scores = evaluation.score(scored, evaluation.Fitted(1.0, {}), settings.evaluate, doubted)
    print("\npooled, out of fold:\n" + evaluation.as_text(scores))
    print(f"\nEvery cell's prediction: {out}")
    return 0


def _outside(settings: Params) -> list[str]:
    """Paths that lead out of the repository, made absolute: an experiment runs in another folder."""
    given = {
        "data.folder": settings.data.folder,
        "split.file": settings.split.file,
        "train.labels_file": settings.train.labels_file,
        "evaluate.doubtful_labels": settings.evaluate.doubtful_labels,
    }
    here = Path.cwd()
    return [
        f"{key}={found}"
        for key, path in given.items()
        if not (found := Path(path).resolve()).is_relative_to(here)
    ]


def _folds_of_file(settings: Params) -> list[int] | None:
    """The folds that split.file names; None where it names none."""
    with Path(settings.split.file).open(encoding="utf-8", newline="") as table:
        found = {int(row["fold"]) for row in csv.DictReader(table) if (row.get("fold") or "").isdigit()}
    return sorted(found) or None


def _run(prefix: str, fold: int, extra: list[str]) -> str:
    """Run one fold as an experiment in a folder of its own; returns the experiment's name."""
    name = f"{prefix}-{fold}"
    # An experiment of that name from before gives way; its stages stay in the run cache.
    _dvc("exp", "remove", name)
    sets = [part for key in (f"split.fold={fold}", *extra) for part in ("-S", key)]
    done = _dvc("exp", "run", "--temp", "-n", name, *sets)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise UserError(f"Fold {fold} failed: {' '.join(said[-2:])}")
    return name


def _dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    end_with(main)
