"""The training loop, readable from top to bottom."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from dvclive.live import Live
from sklearn.metrics import log_loss, roc_auc_score
from tqdm import tqdm

from malaria import params
from malaria.cells import doubtful_labels, packed
from malaria.errors import UserError
from malaria.train import augmentation, cell_random, checkpoint, devices, network
from malaria.train.backend import keras, tf

# Of the labels in doubt, how many are taken to be wrong (noisy_labels: soften).
_WRONG = 0.75

# The network's own opinion of a label counts once it has seen the cell so often, and where it is
# this far from the label: it is slow to learn labels that contradict all others, but rare forms of
# parasites are no error.
_EPOCHS_OF_OPINION, _CONTRADICTION = 4, 0.75

# float32 (n, size, size, 3) and targets (n,) in, the same out.
Alter = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
Loss = Callable[[float], keras.losses.Loss]


@dataclass(frozen=True)
class Cells:
    """The cells of one side of the split.

    images: uint8 (n, size, size, 3), memory-mapped; rows: int64 (m,), this side's rows of images;
    labels: float32 (m,), 1 where parasitised; keys: uint64 (m,), what identifies each cell;
    doubtful: bool (m,), whose labels are listed as in doubt, or None where there is no list.
    """

    images: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint64]
    doubtful: npt.NDArray[np.bool_] | None = None


def side(
    cells: packed.Packed, splits: pd.DataFrame, name: str, listed: frozenset[tuple[str, str]] = frozenset()
) -> Cells:
    """The cells of one side of the split.

    Args:
        splits: rows as tables.SPLITS.
        name: train, val or test.
        listed: the labels in doubt, as `doubts.read` gives them.
    """
    rows, labels = packed.rows(cells, splits, name)
    # A cell is known by its content, whatever stands before it in the index.
    keys = np.array([int(digest[:16], 16) for digest in cells.index.sha256.iloc[rows]], dtype=np.uint64)
    doubtful = doubtful_labels.among(splits[splits.split == name], listed) if listed else None
    return Cells(cells.images, rows, labels, keys, doubtful)


# The cells, what the network thinks of them, the epoch and train.noisy_labels, to what `lessons` gives.
Teach = Callable[
    [Cells, npt.NDArray[np.float64], int, str], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
]


@dataclass(frozen=True)
class Trained:
    """The network of the epoch that was kept (from 0), its AUC on val, and how many epochs there were."""

    model: keras.Model
    kept_epoch: int
    val_auc: float
    epochs: int


def cross_entropy(smoothing: float) -> keras.losses.Loss:
    """Binary cross-entropy, added up over a batch; targets move by half of `smoothing` from 0 and 1."""
    return keras.losses.BinaryCrossentropy(label_smoothing=smoothing, reduction="sum")


def train(
    train: Cells,
    val: Cells,
    settings: params.Train,
    log: Path,
    resume: Path | None = None,
    build: Callable[[int], keras.Model] = network.build,
    alter: Alter | None = None,
    loss: Loss = cross_entropy,
    teach: Teach | None = None,
) -> Trained:
    """Train until `settings.epochs`, or until val AUC has not risen for `settings.patience` epochs.

    The network that is watched and returned has the running average of the trained one's weights.

    With noisy_labels other than keep, val AUC is that of the cells whose labels are not listed as in
    doubt: the noise should not choose the epoch either.

    Args:
        log: an empty folder for DVCLive's loss and AUC per epoch.
        resume: a file where each finished epoch is kept, and where the same training goes on from after
            it was killed, to the same bytes; None keeps nothing.
        build: another network than the pipeline's, for experiments; takes the size in px.
        alter: what else an experiment does to each augmented batch.
        loss: another loss, made from the label smoothing, that adds up over the batch.
        teach: another `lessons`. None of these four is known to `resume`.

    Raises:
        UserError: the loss is not finite any more; the sentence names epoch and step.
    """
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    size = train.images.shape[1]
    on = devices.choose(settings.distribute)
    if said := devices.in_words(on, settings.distribute):
        print(said, flush=True)
    with on.scope():
        model = build(size)
    on.prepare(model)
    # On one device and in float32 wherever the other trains: what is watched, kept and saved.
    mean = build(size)
    steps = -(-len(train.rows) // settings.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        settings.epochs * steps - steps // 2,
        warmup_target=settings.learning_rate,
        warmup_steps=steps // 2,
    )
    with on.scope():
        optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        optimizer = on.prepared(optimizer)
        optimizer.build(model.trainable_variables)
    weights = _class_weights(train.labels, settings.class_weights)
    averaged = [tf.Variable(weight) for weight in model.weights]
    step = _step(model, averaged, optimizer, on, loss(settings.label_smoothing), alter)
    opinion = train.labels.astype(np.float64)
    watched = _watched(val, settings.noisy_labels)
    watched_images, watched_labels = val.rows[watched], val.labels[watched]

    best_auc, best_epoch, best_weights = -1.0, -1, mean.get_weights()
    history: list[tuple[float, ...]] = []
    kept = checkpoint.Checkpoint(resume, _key(train, val, settings, on)) if resume else None
    if carried := kept.load() if kept else None:
        history = [tuple(row) for row in carried["history"].tolist()]
        best_epoch = int(np.argmax([auc for *_, auc in history]))
        best_auc, best_weights = history[best_epoch][-1], carried["best_weights"]
        opinion = carried["opinion"]
        checkpoint.assign([*model.variables, *optimizer.variables, *averaged], carried["variables"])
        print(f"Going on after epoch {len(history) - 1}, from {resume}", flush=True)
    with Live(str(log), save_dvc_exp=False, report=None, dvcyaml=None, monitor_system=False) as live:
        for row in history:
            _log(live, row)
        for epoch in range(len(history), settings.epochs):
            if epoch - best_epoch > settings.patience:
                break
            losses = []
            targets, trust = (teach or lessons)(train, opinion, epoch, settings.noisy_labels)
            transforms, colour, order = _draw(train, settings, epoch)
            starts = range(0, len(order), settings.batch_size)
            for number, start in enumerate(tqdm(starts, desc=f"epoch {epoch}", leave=False, disable=None)):
                batch = order[start : start + settings.batch_size]
                value, p = step(
                    on.share_out(
                        train.images[train.rows[batch]],
                        transforms[batch],
                        colour[batch],
                        targets[batch],
                        (weights * trust)[batch],
                    ),
                    np.float32(len(batch)),
                    _share(settings.averaging, epoch * steps + number),
                )
                # The first epoch's network knows too little to have one.
                opinion[batch] = p if epoch == 1 else (opinion[batch] + p) / 2
                losses.append(float(value))
                if not np.isfinite(losses[-1]):
                    raise UserError(
                        f"The loss is {losses[-1]} at epoch {epoch}, step {number}: "
                        f"lower train.learning_rate (now {settings.learning_rate:g}) in params.yaml."
                    )
            mean.set_weights(checkpoint.values(averaged))
            p = network.predict(mean, val.images[watched_images])
            auc = float(roc_auc_score(watched_labels, p))
            history.append((float(np.mean(losses)), float(log_loss(watched_labels, p, labels=[0, 1])), auc))
            _log(live, history[-1])
            print(f"epoch {epoch}: loss {np.mean(losses):.4f}, val AUC {auc:.4f}", flush=True)
            if auc > best_auc:
                best_auc, best_epoch, best_weights = auc, epoch, mean.get_weights()
            if kept:
                kept.save(
                    {
                        "history": np.array(history),
                        "opinion": opinion,
                        "best_weights": best_weights,
                        "variables": checkpoint.values([*model.variables, *optimizer.variables, *averaged]),
                    }
                )
    # Near the ceiling val AUC is a matter of luck; the end of the schedule is not.
    if settings.keep == "best" or len(history) < settings.epochs:
        mean.set_weights(best_weights)
    else:
        mean.set_weights(checkpoint.values(averaged))
        best_epoch, best_auc = len(history) - 1, history[-1][-1]
    return Trained(mean, best_epoch, best_auc, len(history))


def _key(train: Cells, val: Cells, settings: params.Train, on: devices.Devices) -> str:
    """What tells this training from all others: settings, cells, devices, code, library versions."""
    sides = [part for side in (train, val) for part in (side.rows, side.labels, side.keys, side.doubtful)]
    return checkpoint.key(settings.model_dump_json(), str(on), train.images, *sides)


def _log(live: Any, row: tuple[float, ...]) -> None:
    """Write an epoch's figures; after a resume those of the epochs before come again, to the same bytes."""
    for name, value in zip(("train/loss", "val/loss", "val/auc"), row, strict=True):
        live.log_metric(name, value)
    live.next_step()


def _share(averaging: float, step: int) -> np.float32:
    """The share of the newest weights in the running average: more at first, while there are few."""
    return np.float32(1 - min(averaging, (1 + step) / (10 + step)))


def _step(
    model: keras.Model,
    averaged: list[tf.Variable],
    optimizer: keras.optimizers.Optimizer,
    on: devices.Devices,
    loss_of: keras.losses.Loss,
    alter: Alter | None,
) -> Any:
    """One step of training as a compiled function: a batch in, its loss and P(parasitised) out.

    The batch comes in as many parts as there are replicas, with the count of its cells. `loss_of` adds up.
    """
    size = model.input_shape[1]
    # Traced once for batches of any size. Replicas' values come as they are.
    of_cells = [((size, size, 3), tf.uint8), ((8,), tf.float32), ((3,), tf.float32), *[((), tf.float32)] * 2]
    batches = tuple(tf.TensorSpec((None, *shape), dtype) for shape, dtype in of_cells)
    number = tf.TensorSpec((), tf.float32)
    signature = (batches, number, number) if on.replicas == 1 else None

    def part(
        images: tf.Tensor,
        transforms: tf.Tensor,
        colour: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor,
        count: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        cells = augmentation.apply(images, transforms, colour)
        if alter:
            cells, targets = alter(cells, targets)
        with tf.GradientTape() as tape:
            p = tf.cast(model(cells, training=True), tf.float32)
            # The replicas' losses and gradients are added up: together, the mean over the batch.
            loss = loss_of(targets[:, None], p, sample_weight=weights[:, None]) / count
            scaled = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(scaled, model.trainable_variables), model.trainable_variables)
        return loss, p[:, 0]

    @tf.function(input_signature=signature, reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: tuple[Any, ...], count: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        losses, p = on.strategy.run(part, args=(*batch, count))
        for average, weight in zip(averaged, model.weights, strict=True):
            average.assign_add(share * (weight - average))
        # One after the other the parts are in the order of the batch again.
        parts = on.strategy.experimental_local_results(p)
        return on.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None), tf.concat(parts, axis=0)

    return step


def _draw(
    cells: Cells, settings: params.Train, epoch: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The epoch's transforms and colours of every train cell, and the order to take them in."""
    numbers = cell_random.uniform(settings.seed, epoch, cells.keys, 1 + augmentation.NUMBERS)
    return (
        augmentation.affine(numbers[:, 1:], settings, cells.images.shape[1]),
        augmentation.gains(numbers[:, 1:], settings),
        np.argsort(numbers[:, 0], kind="stable"),
    )


def lessons(
    cells: Cells, opinion: npt.NDArray[np.float64], epoch: int, how: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What the epoch teaches of each cell: targets and weights, each float32 (m,).

    In doubt are the listed labels; without a list those that the network's own running opinion of
    its train cells contradicts. Training's late epochs learn wrong labels by heart, its early ones
    do not (Arpit et al. 2017, arXiv:1706.05394).
    """
    targets, trust = cells.labels, np.ones(len(cells.rows), dtype=np.float32)
    if how == "keep":
        return targets, trust
    doubtful = cells.doubtful
    if doubtful is None:
        heard = epoch >= _EPOCHS_OF_OPINION
        doubtful = heard & (np.abs(opinion - cells.labels) > _CONTRADICTION)
    if how == "drop":
        return targets, np.where(doubtful, np.float32(0), trust)
    return np.where(doubtful, np.abs(targets - np.float32(_WRONG)), targets), trust


def _watched(val: Cells, how: str) -> npt.NDArray[np.bool_]:
    """The val cells whose AUC chooses the epoch, bool (m,): all where the rest lacks a class."""
    if how == "keep" or val.doubtful is None or len(np.unique(val.labels[~val.doubtful])) < 2:
        return np.ones(len(val.rows), dtype=bool)
    return ~val.doubtful


def _class_weights(labels: npt.NDArray[np.float32], how: str) -> npt.NDArray[np.float32]:
    """The weight of each cell, float32 (m,); `balanced` gives both classes the same sum."""
    if how == "none":
        return np.ones(len(labels), dtype=np.float32)
    positive = labels > 0.5
    counts = np.maximum(np.bincount(positive, minlength=2), 1)
    weights: npt.NDArray[np.float32] = (len(labels) / (2 * counts)).astype(np.float32)
    return weights[positive.astype(np.int64)]
