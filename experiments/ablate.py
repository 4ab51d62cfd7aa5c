"""Change one thing of the recipe at a time, and cross-validate each change on the same folds.

Trains on the packed cells, on a share of each fold's train cells and for fewer epochs than a final model, so
that many changes can be compared; what is out of fold is judged whole. Each (row, fold) is kept as it is
done, and a run goes on where the last one ended. The page's table is of trainings of the usual epochs and
share: it is written anew after each row, with every row that is done, whichever run did it. `--full` trains
as the pipeline does.
"""

import argparse
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.parallel import add_options, spread
from malaria import files, params, tables
from malaria.cells import doubtful_labels, images, packed, splits
from malaria.command import end_with, how_many
from malaria.errors import UserError
from malaria.evaluate import calibration, evaluation, paired
from malaria.labels import POSITIVE
from malaria.params import load_params
from malaria.paths import ABLATION, CELLS, PACKED
from malaria.train import cell_random

if TYPE_CHECKING:
    from experiments import variants
    from malaria.train import training

# What the page says that its table was made with.
EPOCHS, SHARE = 6, 0.5
# The row that the others are compared with.
RECIPE = "recipe"

_COLUMNS = {**tables.OUT_OF_FOLD, "p_views": "float64"}
_MARKS = "<!-- ablate: begin -->", "<!-- ablate: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.ablate", description=__doc__)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="these beside the recipe (all)")
    parser.add_argument("--epochs", type=how_many, default=EPOCHS, help="of each training (%(default)s)")
    parser.add_argument(
        "--share", type=float, default=SHARE, help="of the train cells that are used (%(default)s)"
    )
    parser.add_argument("--full", action="store_true", help="all train cells, and the epochs of params.yaml")
    parser.add_argument("--page", type=Path, help="whose table is rewritten (real cells: docs/model.md)")
    add_options(parser)
    given = parser.parse_args()
    # TensorFlow takes seconds to import; --help should not wait for it. Imported here, it keeps quiet.
    from malaria.train import backend  # noqa: F401

    # isort: split
    from experiments import variants

    settings = load_params()
    unknown = sorted(set(given.rows or ()) - set(variants.ROWS))
    if unknown:
        raise UserError(f"--rows names {unknown[0]}, but there are: {', '.join(variants.ROWS)}.")
    chosen = [name for name in variants.ROWS if name in (RECIPE, *(given.rows or variants.ROWS))]
    epochs, share = (settings.train.epochs, 1.0) if given.full else (given.epochs, given.share)
    usual = not given.full and (epochs, share) == (EPOCHS, SHARE)
    # The page's own table is of real cells.
    page = given.page or (None if settings.data.source == "sample" else Path("docs/model.md"))
    doubted = doubtful_labels.read(Path(settings.evaluate.doubtful_labels), "evaluate.doubtful_labels")
    folds, table, closing, written = _folds(settings), "", "", set[str]()
    of_row = {name: _of_row(settings, epochs, row) for name, row in variants.ROWS.items()}
    found: dict[str, dict[int, pd.DataFrame]] = {name: {} for name in variants.ROWS}
    if usual:
        cells = packed.load(PACKED)
        for name, fold in itertools.product(variants.ROWS, folds):
            if (file := kept_in(share, (name, fold, of_row[name]), cells)).is_file():
                found[name][fold] = tables.read(file, _COLUMNS)
    tasks = [(name, fold, of_row[name]) for name in chosen for fold in folds]
    run = functools.partial(_fold, share)
    for (name, fold, _), judged in spread(run, tasks, given.engine, given.workers):
        found[name][fold] = judged
        done = {
            row: pd.concat(parts.values()).sort_values("path", ignore_index=True)
            for row, parts in found.items()
            if len(parts) == len(folds)
        }
        if RECIPE not in done or written == set(done):
            continue
        words = {row: variants.ROWS[row].words for row in done}
        table = as_table(done, words, settings.evaluate, doubted)
        closing = together(done, doubted)
        for row, line in zip(done, table.splitlines()[2:], strict=True):
            if row in written:
                continue
            if usual or given.full:
                file = ABLATION / f"{row}{'-full' if given.full else ''}.csv"
                tables.write(done[row], file, tables.OUT_OF_FOLD)
            print(line, flush=True)
        written = set(done)
        if usual and page:
            _replace(page, f"{table}\n\n{closing}")
    print(f"\n{table}\n\n{closing}")
    return 0


def as_table(
    done: dict[str, pd.DataFrame],
    words: dict[str, str],
    settings: params.Evaluate,
    doubted: frozenset[tuple[str, str]],
) -> str:
    """The rows that are done as a Markdown table; the first is what the others are compared with."""
    first, *_ = done.values()
    lines = [
        "| change | accuracy (sd over folds) | AUC | sensitivity, mean of patients | worst tenth "
        "| accuracy of four views | accuracy, minus the recipe's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, judged in done.items():
        both = paired.join(judged, first)
        found = paired.differences(both, settings, doubted)
        figures = found.get(evaluation.WITHOUT, found[evaluation.AS_GIVEN])
        sure = judged[~doubtful_labels.among(judged, doubted)]
        y = (sure.label == POSITIVE).to_numpy()
        right = pd.Series((sure.p_parasitized.to_numpy() >= 0.5) == y).groupby(sure.fold.to_numpy()).mean()
        views = float(((sure.p_views.to_numpy() >= 0.5) == y).mean())
        gap = figures["accuracy"].difference
        apart = "" if judged is first else f"{gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        lines.append(
            f"| {words[name]} | {figures['accuracy'].one:.4f} ({right.std():.4f}) "
            f"| {figures['auc'].one:.5f} | {figures['macro_sensitivity'].one:.4f} "
            f"| {figures['worst_decile_sensitivity'].one:.3f} | {views:.4f} | {apart} |"
        )
    return "\n".join(lines)


def together(done: dict[str, pd.DataFrame], doubted: frozenset[tuple[str, str]]) -> str:
    """What all rows' networks reach as one ensemble, in a sentence: more than any one can be asked for."""
    from sklearn.metrics import roc_auc_score

    first, *_ = done.values()
    logits = np.mean([calibration.logit(judged.p_views.to_numpy()) for judged in done.values()], axis=0)
    sure = ~doubtful_labels.among(first, doubted)
    y = (first.label == POSITIVE).to_numpy()[sure]
    right, auc = ((logits[sure] >= 0) == y).mean(), roc_auc_score(y, logits[sure])
    return (
        f"The mean of these {len(done)} rows' log-odds over four views has an accuracy of {right:.4f} and an "
        f"AUC of {auc:.5f}."
    )


def _folds(settings: params.Params) -> list[int]:
    given = splits.folds_in(Path(settings.split.file))
    if not given and not settings.split.folds:
        raise UserError(
            "split.folds is 0 in params.yaml: set it to 5, or name a file of folds in split.file."
        )
    return given or list(range(settings.split.folds))


def _of_row(settings: params.Params, epochs: int, row: "variants.Variant") -> params.Params:
    epochs *= row.times
    changed = settings.train.model_copy(update={"epochs": epochs, "patience": epochs, **row.settings})
    return settings.model_copy(update={"train": changed})


def _fold(share: float, task: tuple[str, int, params.Params]) -> pd.DataFrame:
    """What a network trained on the other folds says of this one: tables.OUT_OF_FOLD and `p_views`.

    Args:
        task: the row's name, the fold, and the row's parameters.
    """
    from experiments import variants
    from malaria.train import network, training

    name, fold, settings = task
    variant, cells = variants.ROWS[name], packed.load(PACKED)
    file = kept_in(share, task, cells)
    if file.is_file():
        return tables.read(file, _COLUMNS)
    settings_of_fold = settings.split.model_copy(update={"fold": fold})
    assigned, _ = splits.split(tables.read(CELLS, tables.CELLS), settings_of_fold)
    listed = _listed(variant, settings.train)
    train, val = (training.side(cells, assigned, side, listed) for side in (tables.TRAIN, tables.VAL))
    learnt = _learn(variant, _some(train, share), val, settings.train)
    tested = assigned[assigned.split == tables.TEST].sort_values("path", ignore_index=True)
    pixels, held_out = cells.images[packed.rows_of(cells, tested.path)], cells.images[val.rows]
    y = (val.labels > 0.5).astype(np.int64)
    temperature = calibration.fit_temperature(network.predict(learnt, held_out), y)
    p = network.predict(learnt, pixels)
    logits = _mean_of_views([learnt], pixels)
    judged = tested.assign(
        p_network=p,
        p_parasitized=calibration.apply(p, temperature),
        p_views=1 / (1 + np.exp(-logits / temperature)),
        fold=fold,
    )
    tables.write(judged, file, _COLUMNS)
    return judged[list(_COLUMNS)]


def _listed(variant: "variants.Variant", settings: params.Train) -> frozenset[tuple[str, str]]:
    """The labels in doubt that a row's training is told of."""
    return (
        doubtful_labels.read(Path(settings.labels_file), "train.labels_file")
        if variant.listed
        else frozenset()
    )


def _learn(
    variant: "variants.Variant", train: "training.Cells", val: "training.Cells", settings: params.Train
) -> Any:
    """The network of a row, a Keras model, after its teachers where it has some."""
    from malaria.train import training

    teachers = []
    for number, build in enumerate(variant.teachers, start=1):
        seeded = settings.model_copy(update={"seed": settings.seed + number})
        with tempfile.TemporaryDirectory() as log:
            teachers.append(training.train(train, val, seeded, Path(log), build=build).model)
    if teachers:
        taught = 1 / (1 + np.exp(-_mean_of_views(teachers, train.images[train.rows])))
        train = dataclasses.replace(train, labels=taught.astype(np.float32))
        settings = settings.model_copy(update={"noisy_labels": "keep", "label_smoothing": 0.0})
    with tempfile.TemporaryDirectory() as log:
        return training.train(
            train,
            val,
            settings,
            Path(log),
            build=variant.build,
            alter=variant.alter,
            loss=variant.loss,
            teach=variant.teach,
        ).model


def _mean_of_views(models: Sequence[Any], pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Log-odds, the mean over networks and over each cell and its three mirror images, float64 (n,)."""
    from malaria.train import network

    views = (pixels, pixels[:, ::-1], pixels[:, :, ::-1], pixels[:, ::-1, ::-1])
    said = [calibration.logit(network.predict(model, view)) for model in models for view in views]
    mean: npt.NDArray[np.float64] = np.mean(said, axis=0)
    return mean


def kept_in(share: float, task: tuple[str, int, params.Params], cells: packed.Packed) -> Path:
    """Where a row's fold is kept: the name holds a hash of all that its predictions hang on, but for the
    versions of libraries.
    """
    from experiments import variants
    from malaria.train import augmentation, backend, devices, network, training

    name, fold, settings = task
    own = (_fold, _learn, _mean_of_views, _some, _listed)
    library = (
        network,
        training,
        augmentation,
        backend,
        devices,
        splits,
        cell_random,
        doubtful_labels,
        calibration,
        images,
    )
    key = {
        "train": settings.train.model_dump_json(),
        "split": settings.split.model_dump_json(),
        "share": share,
        "fold": fold,
        "size": cells.size,
        "cells": files.sha256(PACKED / packed.INDEX),
        "assignment": files.sha256(Path(settings.split.file)),
        "doubts": sorted(_listed(variants.ROWS[name], settings.train)),
        "code": [inspect.getsource(part) for part in (variants, *library, *own)],
    }
    found = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return ABLATION / "folds" / f"{name}-{fold}-{found[:12]}.csv"


def _some(cells: "training.Cells", share: float) -> "training.Cells":
    """A share of the cells, chosen by their content, the same in every row of the table."""
    chosen = cell_random.uniform(0, 0, cells.keys, 1)[:, 0] < share
    doubtful = None if cells.doubtful is None else cells.doubtful[chosen]
    return dataclasses.replace(
        cells,
        rows=cells.rows[chosen],
        labels=cells.labels[chosen],
        keys=cells.keys[chosen],
        doubtful=doubtful,
    )


def _replace(page: Path, table: str) -> None:
    """Put `table` between the page's marks; a page without them is left alone."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    begin, end = (text.find(mark) for mark in _MARKS)
    if 0 <= begin < end:
        files.write_text(page, f"{text[:begin]}{_MARKS[0]}\n{table}\n{text[end:]}")


if __name__ == "__main__":
    end_with(main)
