"""Cross-validate the recipe of params.yaml by patient, through DVC experiments, one a fold.

Each fold is an experiment `crossval-<fold>`; a fold that nothing has changed for comes from DVC's run
cache. Prints every fold, mean and standard deviation, and the figures of all out-of-fold cells pooled.
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
from malaria.paths import METRICS, PREDICTIONS

FIGURES = ("auc", "accuracy", "sensitivity", "specificity", "macro_sensitivity")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.crossval", description=__doc__)
    parser.add_argument("--folds", type=int, default=5, help="how many, where split.file names none (5)")
    folds = parser.parse_args().folds
    settings = load_params()
    names = _folds_of_file(settings)
    if names is None:
        if folds < 3:
            raise UserError(f"--folds is {folds}, but must be at least 3.")
        names, extra = list(range(folds)), [f"split.folds={folds}"]
    else:
        extra = []
    oof = []
    print(f"{'fold':>6} " + " ".join(f"{name:>18}" for name in FIGURES))
    rows = []
    for fold in names:
        revision = _run(fold, extra)
        test = json.loads(dvc.api.read(str(METRICS), rev=revision))[tables.TEST]
        rows.append([test[name]["value"] for name in FIGURES])
        print(f"{fold:>6} " + " ".join(f"{value:18.4f}" for value in rows[-1]), flush=True)
        predictions = pd.read_csv(io.StringIO(dvc.api.read(str(PREDICTIONS), rev=revision)))
        oof.append(predictions[predictions.split == tables.TEST])
    figures = np.array(rows, dtype=np.float64)
    for name, values in (("mean", figures.mean(axis=0)), ("sd", figures.std(axis=0, ddof=1))):
        print(f"{name:>6} " + " ".join(f"{value:18.4f}" for value in values))
    pooled = pd.concat(oof, ignore_index=True)
    # Each fold's probabilities carry that fold's temperature already.
    pooled["p_network"] = pooled.p_parasitized
    doubted = doubts.read(Path(settings.evaluate.doubtful_labels), "evaluate.doubtful_labels")
    scores = evaluation.score(pooled, evaluation.Fitted(1.0, {}), settings.evaluate, doubted)
    print("\npooled, out of fold:\n" + evaluation.as_text(scores))
    for version, row in scores.get("labels", {}).items():
        if isinstance(row, dict):
            shown = ", ".join(f"{name} {row[name]['value']:.4f}" for name in FIGURES)
            print(f"{version}: {shown}")
    return 0


def _folds_of_file(settings: Params) -> list[int] | None:
    """The folds that split.file names; None where it names none."""
    with Path(settings.split.file).open(encoding="utf-8", newline="") as table:
        found = {int(row["fold"]) for row in csv.DictReader(table) if (row.get("fold") or "").isdigit()}
    return sorted(found) or None


def _run(fold: int, extra: list[str]) -> str:
    """Run one fold as an experiment in a folder of its own; returns the experiment's name."""
    name = f"crossval-{fold}"
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
