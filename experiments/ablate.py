"""Change one thing of the recipe at a time, and cross-validate each change on the same folds.

Trains on the packed cells, on a share of each fold's train cells and for fewer epochs than a final model, so
that many changes can be compared; what is out of fold is judged whole. Each (row, fold) is kept in
reports/ablation/folds as it is done, and a run goes on where the last one ended. `--full` trains as the
pipeline does.
"""

import argparse
import hashlib
import inspect
import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.parallel import add_options, spread
from malaria import files, params, tables
from malaria.cells import doubtful_labels, packed, splits
from malaria.command import end_with, how_many
from malaria.errors import UserError
from malaria.evaluate import calibration, evaluation, paired
from malaria.labels import POSITIVE
from malaria.params import load_params
from malaria.paths import ABLATION, CELLS, PACKED

EPOCHS, SHARE = 6, 0.5


@dataclass(frozen=True)
class Task:
    """One training: the row's name, the fold, the row's parameters, the share of train cells to take."""

    row: str
    fold: int
    settings: params.Params
    share: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.ablate", description=__doc__)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="these beside the recipe (all)")
    parser.add_argument("--epochs", type=how_many, default=EPOCHS, help="of each training (%(default)s)")
    parser.add_argument(
        "--share", type=float, default=SHARE, help="of the train cells that are used (%(default)s)"
    )
    parser.add_argument("--full", action="store_true", help="all train cells, and the epochs of params.yaml")
    add_options(parser)
    given = parser.parse_args()
    # TensorFlow takes seconds to import; --help should not wait for it.
    from experiments import variants

    settings = load_params()
    unknown = sorted(set(given.rows or ()) - set(variants.ROWS))
    if unknown:
        raise UserError(f"--rows names {unknown[0]}, but there are: {', '.join(variants.ROWS)}.")
    folds = splits.folds_in(Path(settings.split.file)) or list(range(settings.split.folds))
    if not folds:
        raise UserError(
            "split.folds is 0 in params.yaml: set it to 5, or name a file of folds in split.file."
        )
    epochs, share = (settings.train.epochs, 1.0) if given.full else (given.epochs, given.share)
    wanted = [row for row in variants.ROWS if row in (variants.RECIPE, *(given.rows or variants.ROWS))]
    tasks = [Task(row, fold, of_row(settings, epochs, row), share) for row in wanted for fold in folds]
    found: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for task, judged in spread(out_of_fold, tasks, given.engine, given.workers):
        found[task.row].append(judged)
        print(f"{task.row}, fold {task.fold}: done", flush=True)
    done = {row: pd.concat(found[row]).sort_values("path", ignore_index=True) for row in wanted}
    for row, judged in done.items():
        tables.write(judged, ABLATION / f"{row}.csv", tables.OUT_OF_FOLD)
    doubted = doubtful_labels.read(Path(settings.evaluate.doubtful_labels), "evaluate.doubtful_labels")
    words = {row: variants.ROWS[row].words for row in wanted}
    print(f"\n{as_table(done, words, settings.evaluate, doubted)}")
    return 0


def as_table(
    done: dict[str, pd.DataFrame],
    words: dict[str, str],
    settings: params.Evaluate,
    doubted: frozenset[tuple[str, str]],
) -> str:
    """The rows as a Markdown table; the first is what the others are compared with."""
    first, *_ = done.values()
    lines = [
        "| change | accuracy (sd over folds) | AUC | sensitivity, mean of patients | worst tenth "
        "| accuracy, minus the recipe's |",
        "|---|---|---|---|---|---|",
    ]
    for name, judged in done.items():
        found = paired.differences(paired.join(judged, first), settings, doubted)
        figures = found.get(evaluation.WITHOUT, found[evaluation.AS_GIVEN])
        sure = judged[~doubtful_labels.among(judged, doubted)]
        right = ((sure.p_parasitized >= 0.5) == (sure.label == POSITIVE)).groupby(sure.fold).mean()
        gap = figures["accuracy"].difference
        apart = "" if judged is first else f"{gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        lines.append(
            f"| {words[name]} | {figures['accuracy'].one:.4f} ({right.std():.4f}) "
            f"| {figures['auc'].one:.5f} | {figures['macro_sensitivity'].one:.4f} "
            f"| {figures['worst_decile_sensitivity'].one:.3f} | {apart} |"
        )
    return "\n".join(lines)


def of_row(settings: params.Params, epochs: int, row: str) -> params.Params:
    """The parameters that a row trains with."""
    from experiments import variants

    variant = variants.ROWS[row]
    epochs *= variant.times
    train = {**settings.train.model_dump(), "epochs": epochs, "patience": epochs, **variant.settings}
    return settings.model_copy(update={"train": params.Train(**train)})


def out_of_fold(task: Task) -> pd.DataFrame:
    """What a network trained on the other folds says of this one's cells, as tables.OUT_OF_FOLD."""
    file = kept_in(task)
    if file.is_file():
        return tables.read(file, tables.OUT_OF_FOLD)
    from experiments import variants
    from malaria.train import backend, network, training

    settings, cells = task.settings.train, packed.load(PACKED)
    backend.use_threads(settings.threads)
    of_fold = task.settings.split.model_copy(update={"fold": task.fold})
    assigned, _ = splits.split(tables.read(CELLS, tables.CELLS), of_fold)
    listed = doubtful_labels.read(Path(settings.labels_file), "train.labels_file")
    train, val = (training.side(cells, assigned, side, listed) for side in (tables.TRAIN, tables.VAL))
    # The same of them in every row.
    train = train.where(np.random.default_rng(0).random(len(train.rows)) < task.share)
    training.begin(settings)
    with tempfile.TemporaryDirectory() as log:
        network_of_row = variants.ROWS[task.row].build(cells.size)
        model = training.fit(network_of_row, train, val, settings, Path(log)).model
    y = (val.labels > 0.5).astype(np.int64)
    temperature = calibration.fit_temperature(network.predict(model, cells.images[val.rows]), y)
    tested = assigned[assigned.split == tables.TEST].sort_values("path", ignore_index=True)
    p = network.predict(model, cells.images[packed.rows_of(cells, tested.path)])
    judged = tested.assign(p_network=p, p_parasitized=calibration.apply(p, temperature), fold=task.fold)
    tables.write(judged, file, tables.OUT_OF_FOLD)
    return judged[list(tables.OUT_OF_FOLD)]


def kept_in(task: Task) -> Path:
    """Where a fold is kept: the name holds a hash of all that its predictions depend on, but for the versions
    of libraries.
    """
    from experiments import variants
    from malaria.bundle import build

    content = [
        task.settings.model_dump(include={"pack", "split", "train"}),
        task.share,
        [files.sha256(Path(file)) for file in (CELLS, PACKED / packed.INDEX)],
        [files.sha256(Path(file)) for file in (task.settings.split.file, task.settings.train.labels_file)],
        build.code_hash(),
        [inspect.getsource(module) for module in (variants, sys.modules[__name__])],
    ]
    found = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return ABLATION / "folds" / f"{task.row}-{task.fold}-{found[:12]}.csv"


if __name__ == "__main__":
    end_with(main)
