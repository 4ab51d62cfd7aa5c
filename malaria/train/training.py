"""Train the network: Keras's `fit` on a stateless data set, judged on val, resumable after a kill."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from dvclive.live import Live
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.utils.class_weight import compute_sample_weight

from malaria import labels, params
from malaria.cells import doubtful_labels, packed
from malaria.errors import UserError
from malaria.train import augmentation, devices, network
from malaria.train.backend import keras, tf
from malaria.train.checkpoint import Checkpoint, key

# The share of the doubtful labels that are taken to be wrong (noisy_labels: soften).
_WRONG = 0.75

# Figures that are logged for each epoch: name in Keras, name in DVCLive.
_FIGURES = {"loss": "train/loss", "val_loss": "val/loss", "val_auc": "val/auc"}


@dataclass(frozen=True)
class Cells:
    """The cells of one side of the split.

    images: uint8 (n, size, size, 3), memory-mapped; rows: int64 (m,), this side's rows of images; labels:
    float32 (m,), 1 where parasitised; doubtful: bool (m,), whose labels are listed as doubtful, or None if
    there is no list.
    """

    images: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32]
    doubtful: npt.NDArray[np.bool_] | None = None

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Cells":
        """The cells that are `chosen`, bool (m,)."""
        doubtful = None if self.doubtful is None else self.doubtful[chosen]
        return Cells(self.images, self.rows[chosen], self.labels[chosen], doubtful)


def side(
    cells: packed.Packed, splits: pd.DataFrame, name: str, doubtful: doubtful_labels.Pairs = frozenset()
) -> Cells:
    """The cells of one side of the split.

    Args:
        splits: rows as tables.SPLITS.
        name: train, val or test.
        doubtful: the doubtful labels, as `doubtful_labels.read` gives them.
    """
    chosen = splits[splits.split == name]
    in_doubt = doubtful_labels.is_doubtful(chosen, doubtful) if doubtful else None
    y = labels.values(chosen.label).astype(np.float32)
    return Cells(cells.images, packed.rows_of(cells, chosen.path), y, in_doubt)


def with_others(cells: Cells, others: packed.Packed) -> Cells:
    """`cells`, followed by those of other laboratories."""
    if not len(others.images):
        return cells
    rows = np.arange(len(cells.images), len(cells.images) + len(others.images))
    doubtful = None if cells.doubtful is None else np.append(cells.doubtful, np.zeros(len(rows), dtype=bool))
    return Cells(
        np.concatenate([cells.images, others.images]),
        np.append(cells.rows, rows),
        np.append(cells.labels, labels.values(others.index.label).astype(np.float32)),
        doubtful,
    )


@dataclass(frozen=True)
class Trained:
    """The network of the epoch that was kept (from 1), its AUC on val, and how many epochs there were."""

    model: keras.Model
    kept_epoch: int
    val_auc: float
    epochs: int


def train(train: Cells, val: Cells, settings: params.Train, log: Path, resume: Path | None = None) -> Trained:
    """Train the network for `settings.epochs`, or until val AUC has not risen for `settings.patience` epochs.

    The network that is judged on val and returned has the running average of the weights.

    With noisy_labels other than keep, val AUC leaves out the cells with doubtful labels, so that wrong labels
    do not choose the epoch either.

    Args:
        log: an empty folder for DVCLive's loss and AUC of each epoch.
        resume: a file that keeps each finished epoch; the same training resumes from it after it was killed,
            and gives the same bytes. None keeps nothing.

    Raises:
        UserError: the loss is no longer finite; the message names epoch and step. Or doubtful labels are to
            be dropped or softened, and none are listed. Or as `devices.choose` and `network.start_from`.
    """
    if settings.noisy_labels != "keep" and train.doubtful is None:
        raise UserError(
            f"params.yaml: train.noisy_labels is {settings.noisy_labels}, but train.labels_file, "
            f"{settings.labels_file}, lists no label: list those in doubt, or set train.noisy_labels to keep."
        )
    begin(settings)
    size = train.images.shape[1]
    on = devices.choose(settings.distribute)
    if note := devices.in_words(on, settings.distribute):
        print(note, flush=True)
    with on.scope():
        model = network.build(size, synchronized=on.strategy.num_replicas_in_sync > 1)
        if network.start_from(model, Path(settings.start)):
            print(f"Starting from the weights in {settings.start}", flush=True)
    train = taught(train, settings.noisy_labels)
    steps = len(train.rows) // _batch(train, settings)
    # Before `set_up`: a compiled model's description has the number of its optimizer in this process.
    checkpoint = Checkpoint(resume, _key(train, val, settings, model)) if resume else None
    set_up(model, settings, steps)
    with Live(str(log), save_dvc_exp=False, report=None, dvcyaml=None, monitor_system=False) as live:
        progress = _Progress(model, _watched(val, settings.noisy_labels), settings, live, checkpoint)
        if done := progress.go_on():
            print(f"Going on after epoch {done}, from {resume}", flush=True)
        if not progress.is_over():
            model.fit(
                batches(train, settings, done),
                epochs=settings.epochs,
                initial_epoch=done,
                steps_per_epoch=steps,
                callbacks=[progress],
                shuffle=False,
                verbose=1 if sys.stdout.isatty() else 2,
            )
    # A network for one device in float32, whatever the training ran on.
    return progress.trained(network.build(size))


def begin(settings: params.Train) -> None:
    """Seed all random numbers that Keras draws, first weights included. Call it before a network is built."""
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()


def set_up(model: keras.Model, settings: params.Train, steps: int) -> None:
    """Compile `model` with cross-entropy, and AdamW under a cosine schedule after half an epoch of warm-up.

    Args:
        steps: of an epoch.
    """
    total = settings.epochs * steps
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, total - steps // 2, warmup_target=settings.learning_rate, warmup_steps=steps // 2
    )
    # A short training is averaged over a tenth of its steps; otherwise its beginning would weigh too much.
    momentum = max(0.0, min(settings.averaging, 1 - 10 / total))
    loss = keras.losses.BinaryCrossentropy(label_smoothing=settings.label_smoothing)
    # The optimizer's variables have to be mirrored if the network is.
    with model.distribute_strategy.scope():
        optimizer = keras.optimizers.AdamW(
            rate, weight_decay=settings.weight_decay, use_ema=momentum > 0, ema_momentum=momentum
        )
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        # XLA's convolutions are slower here.
        model.compile(optimizer, loss, jit_compile=False)
        model.optimizer.build(model.trainable_variables)


def batches(cells: Cells, settings: params.Train, first: int = 0) -> tf.data.Dataset:
    """Augmented batches, epoch after epoch, starting with epoch `first`.

    Each has images float32 (b, size, size, 3) in [0, 255], targets and weights float32 (b,). Order and
    augmentation depend on seed, epoch and position only. An epoch leaves out the cells that remain after its
    last whole batch; the next epoch draws from all cells again.
    """
    shapes = tuple(tf.TensorSpec(part.shape, part.dtype) for part in next(drawn(cells, settings, first)))
    return (
        tf.data.Dataset.from_generator(lambda: drawn(cells, settings, first), output_signature=shapes)
        .map(lambda images, numbers, *rest: (augmentation.augment(images, numbers, settings), *rest))
        .prefetch(2)
    )


def drawn(cells: Cells, settings: params.Train, first: int = 0) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    """The input of `batches`: uint8 images, numbers for `augmentation.augment`, targets, weights."""
    size = _batch(cells, settings)
    weigh = None if settings.class_weights == "none" else settings.class_weights
    weights = compute_sample_weight(weigh, cells.labels > 0.5).astype(np.float32)
    for epoch in range(first, settings.epochs):
        random = np.random.default_rng((settings.seed, epoch))
        order = random.permutation(len(cells.rows))
        for start in range(0, len(order) - size + 1, size):
            batch = order[start : start + size]
            numbers = random.random((size, augmentation.NUMBERS), dtype=np.float32)
            yield cells.images[cells.rows[batch]], numbers, cells.labels[batch], weights[batch]


def taught(cells: Cells, how: str) -> Cells:
    """The cells to learn from: doubtful labels are kept, their cells dropped, or their targets softened."""
    if how == "keep" or cells.doubtful is None:
        return cells
    if how == "drop":
        return cells.where(~cells.doubtful)
    targets = np.where(cells.doubtful, np.abs(cells.labels - np.float32(_WRONG)), cells.labels)
    return replace(cells, labels=targets)


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Judges each epoch on val, stops the training, and keeps the best network and the checkpoint."""

    def __init__(
        self, model: keras.Model, val: Cells, settings: params.Train, live: Live, resume: Checkpoint | None
    ) -> None:
        super().__init__()
        self.set_model(model)
        with model.distribute_strategy.scope():
            self.average = keras.models.clone_model(model)
        self.variables = [*model.variables, *model.optimizer.variables]
        self.settings, self.live, self.checkpoint = settings, live, resume
        self.images, self.labels = val.images[val.rows], val.labels
        self.history: list[list[float]] = []
        self.best: list[npt.NDArray[Any]] = []

    def go_on(self) -> int:
        """Restore the checkpoint; return how many epochs it has."""
        saved = self.checkpoint.load() if self.checkpoint else {}
        for variable, value in zip(self.variables, saved.get("variables", ()), strict=bool(saved)):
            variable.assign(value)
        self._average()
        self.best = saved.get("best", [])
        for figures in saved.get("history", ()):
            self._log(figures.tolist())
        return len(self.history)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        if not np.isfinite(logs["loss"]):
            raise UserError(
                f"The loss is {logs['loss']} at epoch {len(self.history) + 1}, step {batch + 1}: "
                f"lower train.learning_rate (now {self.settings.learning_rate:g}) in params.yaml."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self._average()
        p = network.predict(self.average, self.images)
        # Keras prints the figures in `logs`.
        logs["val_loss"] = log_loss(self.labels, p, labels=[0, 1])
        logs["val_auc"] = roc_auc_score(self.labels, p)
        self._log([float(logs[name]) for name in _FIGURES])
        if self._best_epoch() == epoch + 1:
            self.best = self.average.get_weights()
        self.model.stop_training = self.is_over()
        if self.checkpoint:
            variables = [variable.numpy() for variable in self.variables]
            self.checkpoint.save(history=self.history, best=self.best, variables=variables)

    def is_over(self) -> bool:
        """Whether all epochs are done, or val AUC has not risen for `settings.patience` epochs."""
        done = len(self.history)
        return done in (self.settings.epochs, self._best_epoch() + self.settings.patience)

    def trained(self, model: keras.Model) -> Trained:
        """Give `model` the weights of the last epoch or of the best one, as `settings.keep` says.

        Near its ceiling val AUC picks an epoch by chance, which the end of the schedule does not.
        """
        done = len(self.history)
        last = self.settings.keep == "last" and done == self.settings.epochs
        model.set_weights(self.average.get_weights() if last else self.best)
        epoch = done if last else self._best_epoch()
        return Trained(model, epoch, self.history[epoch - 1][-1], done)

    def _average(self) -> None:
        """Give `average` the running average of the network's weights, which the optimizer keeps."""
        self.average.set_weights(self.model.get_weights())
        self.model.optimizer.finalize_variable_values(self.average.trainable_variables)

    def _best_epoch(self) -> int:
        """The epoch with the highest val AUC, from 1; 0 before the first."""
        return 1 + int(np.argmax([auc for *_, auc in self.history])) if self.history else 0

    def _log(self, figures: list[float]) -> None:
        """Log an epoch; after a resume the earlier ones are logged again, to the same bytes."""
        self.history.append(figures)
        for name, value in zip(_FIGURES.values(), figures, strict=True):
            self.live.log_metric(name, value)
        self.live.next_step()  # type: ignore[no-untyped-call]


def _batch(cells: Cells, settings: params.Train) -> int:
    return min(settings.batch_size, len(cells.rows))


def _key(train: Cells, val: Cells, settings: params.Train, model: keras.Model) -> str:
    """The checkpoint's key, from settings, cells, network, first weights, devices, code and versions."""
    network_of = [model.to_json(), model.get_weights(), model.distribute_strategy.num_replicas_in_sync]
    sides = [(cells.rows, cells.labels, cells.doubtful) for cells in (train, val)]
    return key(settings.model_dump_json(), network_of, train.images, sides)


def _watched(val: Cells, how: str) -> Cells:
    """The val cells whose AUC chooses the epoch.

    Those without doubtful labels, or all cells if the others would lack a class.
    """
    sure = taught(val, "keep" if how == "keep" else "drop")
    return sure if len(np.unique(sure.labels)) == 2 else val
