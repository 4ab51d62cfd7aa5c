"""Time the original's way of training against the pipeline's, to the same mark, on the same cells and cores.

The original's, written plainly with Keras: an ImageDataGenerator that decodes PNGs from class folders
every epoch and rotates, shears and flips them; three blocks of convolution and pooling, one sigmoid;
Adam, batches of 32. Ours: training from packed arrays, for as few epochs as reach the mark. Both clocks
start when Keras is imported, and compilation counts. Both are judged by AUC on the val cells of the
split; the time that takes counts for ours alone. The mark is `--mark`, or the original's best where it
does not get there. Every run is a process of its own, and once done it is kept in
reports/benchmark-training. Needs `dvc repro pack split`.
"""

import argparse
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from malaria import files, paths, tables
from malaria.bundle import build
from malaria.cells import packed
from malaria.command import end_with, how_many
from malaria.errors import UserError
from malaria.labels import LABELS
from malaria.params import load_params

OUT = Path("reports/benchmark-training")
WAYS = ("original", "ours")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--seeds", type=how_many, default=3, help="how many, whose medians are printed (3)")
    parser.add_argument("--epochs", type=how_many, default=30, help="of the original, at most (30)")
    parser.add_argument("--mark", type=float, default=0.985, help="val AUC to reach (0.985)")
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        if given.run == "ours":
            run_ours(given.seed, given.epochs)
        else:
            run_original(given.seed, given.epochs, given.mark)
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}; the mark is a val AUC of {given.mark}"
    )
    ratios = []
    for seed in range(1, given.seeds + 1):
        original = _measured("original", seed, given.epochs, given.mark)
        mark = min(given.mark, max(original["auc"]))
        ours: dict[str, Any] = {"auc": [0.0]}
        epochs = 0
        while max(ours["auc"]) < mark:
            epochs += 1
            if epochs > given.epochs:
                raise UserError(f"Ours did not reach {mark} in {given.epochs} epochs: look at the data.")
            ours = _measured("ours", seed, epochs, mark)
        ratios.append(_told(seed, mark, original, ours))
    print(
        f"ours takes 1/{statistics.median(ratios):.0f} of the original's time (median of {given.seeds} seeds)"
    )
    return 0


def _told(seed: int, mark: float, original: dict[str, Any], ours: dict[str, Any]) -> float:
    """Print both runs to the mark; how many times longer the original takes."""
    first = next(place for place, auc in enumerate(original["auc"]) if auc >= mark)
    ratio = float(original["seconds"][first] / ours["seconds"][-1])
    print(f"seed {seed}: to a val AUC of {mark:.4f}, {ratio:.0f} times as fast")
    for name, run, seconds in (
        ("original", original, original["seconds"][first]),
        ("ours", ours, ours["seconds"][-1]),
    ):
        print(
            f"  {name:9}{seconds:8.0f} s, {run['cells_a_second']:7,.0f} images/s, best AUC "
            f"{max(run['auc']):.4f} in {len(run['auc'])} epochs, peak memory {run['mebibytes']:,.0f} MiB",
            flush=True,
        )
    return ratio


def _measured(way: str, seed: int, epochs: int, mark: float) -> dict[str, Any]:
    """What a run in a process of its own found, or had found before."""
    file = kept_in(way, seed, epochs, mark)
    if not file.is_file():
        command = ["--run", way, "--seed", str(seed), "--epochs", str(epochs), "--mark", str(mark)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.training", *command],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"{way}, seed {seed}, ended with status {done.returncode}: {done.stderr.strip()}")
        files.write_json(file, json.loads(done.stdout.splitlines()[-1]))
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def kept_in(way: str, seed: int, epochs: int, mark: float) -> Path:
    """Where a run is kept: the name holds a hash of the cells, their split, the recipe, the code and the
    machine.
    """
    settings = load_params()
    # Read, so that a table that is missing or is none is told in a sentence.
    tables.read(paths.SPLITS, tables.SPLITS)
    size = packed.load(paths.PACKED).size
    content = [
        *(files.sha256(file) for file in (paths.PACKED / packed.INDEX, paths.SPLITS)),
        settings.train.model_dump_json(),
        str(size),
        build.code_hash(),
        inspect.getsource(sys.modules[__name__]),
        f"{platform.node()} {os.cpu_count()} {platform.python_version()}",
        *(importlib.metadata.version(name) for name in ("keras", "tensorflow")),
    ]
    found = hashlib.sha256("\n".join(content).encode()).hexdigest()
    return OUT / f"{way}-{seed}-{epochs}-{mark:.6f}-{found[:12]}.json"


def run_ours(seed: int, epochs: int) -> None:
    """Train for `epochs` from packed arrays, and print what it took as JSON."""
    from malaria.train import training

    begun = time.monotonic()
    cells, splits = packed.load(paths.PACKED), tables.read(paths.SPLITS, tables.SPLITS)
    settings = load_params().train.model_copy(
        update={"seed": seed, "epochs": epochs, "patience": epochs, "noisy_labels": "keep"}
    )
    train, val = (training.side(cells, splits, name) for name in (tables.TRAIN, tables.VAL))
    with tempfile.TemporaryDirectory() as log:
        learnt = training.train(train, val, settings, Path(log))
    seconds = time.monotonic() - begun
    _print([learnt.val_auc], [seconds], len(train.rows) * epochs)


def run_original(seed: int, epochs: int, mark: float) -> None:
    """Train as the original did until the mark, and print what it took, epoch by epoch, as JSON."""
    import keras
    import tensorflow as tf
    from keras import layers
    from sklearn.metrics import roc_auc_score

    from malaria.train import training

    keras.utils.set_random_seed(seed)
    cells, splits = packed.load(paths.PACKED), tables.read(paths.SPLITS, tables.SPLITS)
    size = cells.size
    val = training.side(cells, splits, tables.VAL)
    shown = splits[splits.split == tables.TRAIN].assign(path=lambda rows: f"{paths.RAW}/" + rows.path)
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255, rotation_range=20, shear_range=0.2, horizontal_flip=True
    ).flow_from_dataframe(
        shown,
        x_col="path",
        y_col="label",
        classes=list(LABELS),
        class_mode="binary",
        target_size=(size, size),
        batch_size=32,
        seed=seed,
    )
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            *(
                layer
                for width in (32, 32, 64)
                for layer in (layers.Conv2D(width, 3, activation="relu"), layers.MaxPooling2D(2))
            ),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
    held_out = cells.images[val.rows].astype("float32") / 255
    aucs: list[float] = []
    seconds: list[float] = []
    spent = 0.0
    while len(aucs) < epochs and (not aucs or aucs[-1] < mark):
        begun = time.monotonic()
        model.fit(generator, epochs=1, verbose=0)
        spent += time.monotonic() - begun
        seconds.append(spent)
        aucs.append(float(roc_auc_score(val.labels, model.predict(held_out, verbose=0)[:, 0])))
    _print(aucs, seconds, len(shown) * len(aucs))


def _print(aucs: list[float], seconds: list[float], cells: int) -> None:
    # Kibibytes on Linux, bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    found = {"auc": aucs, "seconds": seconds, "cells_a_second": cells / seconds[-1], "mebibytes": peak}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    end_with(main)
