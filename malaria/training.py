"""The training loop, readable from top to bottom."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from dvclive.live import Live
from sklearn.metrics import log_loss, roc_auc_score
from tqdm import tqdm

from malaria import augmentation, draws, network, packed, params
from malaria.errors import UserError


@dataclass(frozen=True)
class Cells:
    """The cells of one side of the split.

    images: uint8 (n, size, size, 3), memory-mapped; rows: int64 (m,), this side's rows of images;
    labels: float32 (m,), 1 where parasitised; keys: uint64 (m,), what identifies each cell.
    """

    images: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint64]


def side(cells: packed.Packed, splits: pd.DataFrame, name: str) -> Cells:
    """The cells of one side of the split (rows as tables.SPLITS; train, val or test)."""
    rows, labels = packed.rows(cells, splits, name)
    # A cell is known by its content, whatever stands before it in the index.
    keys = np.array([int(digest[:16], 16) for digest in cells.index.sha256.iloc[rows]], dtype=np.uint64)
    return Cells(cells.images, rows, labels, keys)


@dataclass(frozen=True)
class Trained:
    """The best epoch's network, and how good it was on val."""

    model: keras.Model
    best_epoch: int
    best_auc: float
    epochs: int


def train(train: Cells, val: Cells, settings: params.Train, log: Path) -> Trained:
    """Train until `settings.epochs`, or until val AUC has not risen for `settings.patience` epochs.

    Args:
        log: folder for DVCLive's loss and AUC per epoch.

    Raises:
        UserError: the loss is not finite any more; the sentence names epoch and step.
    """
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    size = train.images.shape[1]
    model = network.build(size)
    steps = -(-len(train.rows) // settings.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        settings.epochs * steps - steps // 2,
        warmup_target=settings.learning_rate,
        warmup_steps=steps // 2,
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    weights = _class_weights(train.labels, settings.class_weights)
    step = _step(model, optimizer, settings.label_smoothing)

    best_auc, best_epoch, best_weights = -1.0, -1, model.get_weights()
    epoch = 0
    with Live(str(log), save_dvc_exp=False, report=None, dvcyaml=None, monitor_system=False) as live:
        for epoch in range(settings.epochs):
            losses = []
            bar = tqdm(
                _batches(train, weights, settings, epoch), total=steps, desc=f"epoch {epoch}", leave=False
            )
            for number, batch in enumerate(bar):
                losses.append(float(step(*batch)))
                if not np.isfinite(losses[-1]):
                    raise UserError(
                        f"The loss is {losses[-1]} at epoch {epoch}, step {number}: "
                        f"lower train.learning_rate (now {settings.learning_rate:g}) in params.yaml."
                    )
            p = network.predict(model, val.images[val.rows])
            auc = float(roc_auc_score(val.labels, p))
            live.log_metric("train/loss", float(np.mean(losses)))
            live.log_metric("val/loss", float(log_loss(val.labels, p, labels=[0, 1])))
            live.log_metric("val/auc", auc)
            live.next_step()
            print(f"epoch {epoch}: loss {np.mean(losses):.4f}, val AUC {auc:.4f}", flush=True)
            if auc > best_auc:
                best_auc, best_epoch, best_weights = auc, epoch, model.get_weights()
            if epoch - best_epoch >= settings.patience:
                break
    model.set_weights(best_weights)
    return Trained(model, best_epoch, best_auc, epoch + 1)


def _step(model: keras.Model, optimizer: keras.optimizers.Optimizer, smoothing: float) -> Any:
    """One step of training as a compiled function: batch in, loss out."""
    loss_of = keras.losses.BinaryCrossentropy(label_smoothing=smoothing)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(
        images: tf.Tensor, transforms: tf.Tensor, colour: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        cells = augmentation.apply(images, transforms, colour)
        with tf.GradientTape() as tape:
            p = model(cells, training=True)
            loss = loss_of(labels[:, None], p, sample_weight=weights[:, None])
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return step


def _batches(
    cells: Cells, class_weights: npt.NDArray[np.float32], settings: params.Train, epoch: int
) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    """The epoch's batches: every train cell once, in an order and with numbers of its own."""
    numbers = draws.uniform(settings.seed, epoch, cells.keys, 1 + augmentation.NUMBERS)
    order = np.argsort(numbers[:, 0], kind="stable")
    transforms = augmentation.affine(numbers[:, 1:], settings, cells.images.shape[1])
    colour = augmentation.gains(numbers[:, 1:], settings)
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        labels = cells.labels[batch]
        yield (
            cells.images[cells.rows[batch]],
            transforms[batch],
            colour[batch],
            labels,
            class_weights[(labels > 0.5).astype(int)],
        )


def _class_weights(labels: npt.NDArray[np.float32], how: str) -> npt.NDArray[np.float32]:
    """The weight of each class, float32 (2,); `balanced` gives both the same sum."""
    if how == "none":
        return np.ones(2, dtype=np.float32)
    counts = np.bincount(labels.astype(int), minlength=2)
    return (len(labels) / (2 * np.maximum(counts, 1))).astype(np.float32)
