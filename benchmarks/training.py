"""Time the original's way of training against the pipeline's, to the same mark, on the same cells and cores.

The original's, written plainly with Keras: an ImageDataGenerator that decodes PNGs from class folders
every epoch and rotates, shears and flips them; three blocks of convolution and pooling, one sigmoid;
Adam, batches of 32. Ours: the pipeline's training, for the fewest epochs that reach the mark, a val AUC. The
time starts before Keras is imported. The val cells are those of the split; only for ours does the time to
evaluate them count. The mark is `--mark`, or the original's best AUC if that is lower. Every run has its own
process.

The time of ours is split into start-up (imports, compilation, validation) and images per second after it. The
latter is also given as a share of a bare training step: the same network, loss and optimizer as one compiled
function, on one batch in memory, with the recipe's augmentation and without. Needs `dvc repro pack split`.
"""

import contextlib
import functools
import io
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import by_turns
from malaria import params, paths, tables
from malaria.cells import packed
from malaria.command import new_parser, positive, run_and_exit
from malaria.errors import UserError
from malaria.labels import LABELS, values

# Warm-up steps before the rate is measured.
_BEFORE = 20


def main() -> None:
    parser = new_parser("benchmarks.training", __doc__)
    parser.add_argument("--seeds", type=positive, default=3, help="number of seeds (3)")
    parser.add_argument("--epochs", type=positive, default=30, help="most epochs of each training (30)")
    parser.add_argument("--mark", type=float, default=0.985, help="val AUC to reach (0.985)")
    parser.add_argument("--steps", type=positive, default=100, help="steps per measurement of the rate (100)")
    parser.add_argument("--rounds", type=positive, default=5, help="number of these measurements (5)")
    arguments = parser.parse_args()
    print(by_turns.machine())
    rate, share, share_of_plain = by_turns.run_in_process(rates, _BEFORE + arguments.steps, arguments.rounds)
    print(
        f"ours, steady: {rate:,.0f} images/s: {share:.1%} of a bare step's rate, and {share_of_plain:.1%} of "
        "that of one that does not augment",
        flush=True,
    )
    seeds = pd.RangeIndex(1, arguments.seeds + 1, name="seed")
    times = [to_the_mark(seed, arguments.epochs, arguments.mark, rate) for seed in seeds]
    print(pd.DataFrame(times, seeds).round(2).to_string())


def to_the_mark(seed: int, most: int, mark: float, rate: float) -> dict[str, float]:
    """Time both ways to the same AUC; ours with the fewest epochs, of which `rate` tells the start-up."""
    best, original_seconds = by_turns.run_in_process(original, seed, most, mark)
    for epochs in range(1, most + 1):
        auc, seconds, images = by_turns.run_in_process(pipeline, seed, epochs)
        if auc >= min(mark, best):
            return {
                "val AUC": min(mark, best),
                "original s": original_seconds,
                "ours s": seconds,
                "start-up s": seconds - images / rate,
                "times as fast": original_seconds / seconds,
            }
    raise UserError(f"Ours did not reach {min(mark, best)} in {most} epochs: look at the data.")


def pipeline(seed: int, epochs: int) -> tuple[float, float, int]:
    """Train for `epochs` from packed arrays: val AUC, seconds, images."""
    begun = time.monotonic()
    from malaria.train import training

    settings = _settings(seed, epochs)
    cells, splits = packed.load(paths.PACKED), tables.read(paths.SPLITS, tables.SPLITS)
    train, val = (training.side(cells, splits, name) for name in (tables.TRAIN, tables.VAL))
    with tempfile.TemporaryDirectory() as log, contextlib.redirect_stdout(io.StringIO()):
        auc = training.train(train, val, settings, Path(log)).val_auc
    return auc, time.monotonic() - begun, epochs * len(train.rows)


def rates(steps: int, rounds: int) -> tuple[float, float, float]:
    """Images per second of `fit` on the pipeline's batches, and its shares of two bare steps.

    The second bare step does not augment. Each is a median over rounds, in which the three alternate: a share
    is of one round, so that a processor that slows down between rounds does not change it.
    """
    from malaria.train import augmentation, network, training
    from malaria.train.backend import keras, tf

    settings = _settings(seed=1, epochs=1000)
    cells, splits = packed.load(paths.PACKED), tables.read(paths.SPLITS, tables.SPLITS)
    train = training.side(cells, splits, tables.TRAIN)
    training.begin(settings)
    model = network.build(cells.size)
    training.set_up(model, settings, steps)
    images, numbers, targets, _ = map(tf.constant, next(training.drawn(train, settings)))
    batches = training.batches(train, settings)

    def update(images: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss(targets[:, None], model(images, training=True))
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    bare = tf.function(lambda: update(augmentation.augment(images, numbers, settings)))
    plain = tf.function(lambda: update(tf.cast(images, tf.float32)))

    def fit(clock: Callable[..., None]) -> None:
        callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=clock)]
        model.fit(batches, steps_per_epoch=steps, callbacks=callbacks, verbose=0, shuffle=False)

    def repeated(step: Callable[[], tf.Tensor], clock: Callable[..., None]) -> None:
        for _ in range(steps):
            float(step())
            clock()

    ways = fit, functools.partial(repeated, bare), functools.partial(repeated, plain)
    rate, bare_rate, plain_rate = np.array(
        [[_rate(way, len(images)) for way in ways] for _ in range(rounds)]
    ).T
    return float(np.median(rate)), float(np.median(rate / bare_rate)), float(np.median(rate / plain_rate))


def _rate(way: Callable[[Callable[..., None]], None], batch: int) -> float:
    """Images per second of `way`, which must call the clock that it gets after each step."""
    times: list[float] = []
    way(lambda *_, **__: times.append(time.perf_counter()))
    return batch * (len(times) - _BEFORE) / (times[-1] - times[_BEFORE - 1])


def _settings(seed: int, epochs: int) -> params.Train:
    """Settings of params.yaml, changed so that training runs through all epochs."""
    from malaria.train import backend

    settings = params.load_params().train
    backend.use_threads(settings.threads)
    changed = {"seed": seed, "epochs": epochs, "patience": epochs, "noisy_labels": "keep"}
    return settings.model_copy(update=changed)


def original(seed: int, epochs: int, mark: float) -> tuple[float, float]:
    """Train as the original did, until `mark` or for all epochs: best val AUC, and the seconds to it."""
    begun = time.monotonic()
    import keras
    import tensorflow as tf
    from keras import layers
    from sklearn.metrics import roc_auc_score

    keras.utils.set_random_seed(seed)
    cells, splits = packed.load(paths.PACKED), tables.read(paths.SPLITS, tables.SPLITS)
    val = splits[splits.split == tables.VAL]
    shown = splits[splits.split == tables.TRAIN].assign(path=lambda rows: f"{paths.RAW}/" + rows.path)
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255, rotation_range=20, shear_range=0.2, horizontal_flip=True
    ).flow_from_dataframe(
        shown,
        x_col="path",
        y_col="label",
        classes=list(LABELS),
        class_mode="binary",
        target_size=(cells.size, cells.size),
        batch_size=32,
        seed=seed,
    )
    blocks = [(layers.Conv2D(width, 3, activation="relu"), layers.MaxPooling2D(2)) for width in (32, 32, 64)]
    head = [layers.Flatten(), layers.Dense(64, "relu"), layers.Dropout(0.5), layers.Dense(1, "sigmoid")]
    model = keras.Sequential([keras.Input((cells.size, cells.size, 3)), *itertools.chain(*blocks), *head])
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
    held_out = cells.images[packed.rows_of(cells, val.path)].astype("float32") / 255
    best, seconds, judging = 0.0, 0.0, 0.0
    for _ in range(epochs):
        model.fit(generator, epochs=1, verbose=0)
        trained = time.monotonic()
        auc = float(roc_auc_score(values(val.label), model.predict(held_out, verbose=0)[:, 0]))
        if auc > best:
            best, seconds = auc, trained - begun - judging
        if best >= mark:
            break
        judging += time.monotonic() - trained
    return best, seconds


if __name__ == "__main__":
    run_and_exit(main)
