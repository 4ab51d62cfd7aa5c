"""What the field knows that the recipe could do otherwise: the rows of `python -m experiments.ablate`.

Each row changes one thing of the recipe in params.yaml. What helps in cross-validation is taken over into the
library or params.yaml; what does not stays here, where it can be tried again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from malaria.train import network, training
from malaria.train.backend import keras, tf

layers = keras.layers

Build = Callable[[int], keras.Model]


@dataclass(frozen=True)
class Variant:
    """A row: what it is, in words; `settings` of section train that differ, and how many times the epochs;
    whether the list of labels in doubt is used; another network, step, loss or lesson; and the networks of an
    ensemble that is trained first, on the same cells, and whose mean the row's network learns in place of the
    labels.
    """

    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    times: int = 1
    listed: bool = True
    build: Build = network.build
    alter: training.Alter | None = None
    loss: training.Loss = training.cross_entropy
    teach: training.Teach = training.lessons
    teachers: tuple[Build, ...] = ()


def shaped(
    widths: tuple[int, ...] = network.WIDTHS,
    stride: int = 1,
    *,
    separable: int | None = None,
    pooled_first: bool = True,
    excite: bool = False,
    blurred: bool = False,
    residual: bool = False,
    normalised: bool = False,
) -> Build:
    """A builder of networks like `network.build`, of another shape.

    Args:
        widths: of the convolutions.
        stride: of the first convolution, which then is not pooled.
        separable: the convolution, counted from 1, from which on each channel has a filter of its own before
            channels are mixed (Chollet 2017, arXiv:1610.02357).
        pooled_first: pool before the normalisation, not after the activation.
        excite: squeeze and excitation (Hu et al. 2018, arXiv:1709.01507) after each activation.
        blurred: anti-aliased pooling (Zhang 2019, arXiv:1904.11486).
        residual: a second, bypassed convolution at the two coarsest scales (He et al. 2016,
            arXiv:1512.03385), separable where any is.
        normalised: each cell's colours are scaled to a common mean (`_same_stain`).
    """

    def build(size: int) -> keras.Model:
        cell = keras.Input((size, size, 3), name="cell")
        x = layers.Rescaling(1 / 255)(_same_stain(cell) if normalised else cell)
        for depth, width in enumerate(widths, start=1):
            strides = stride if depth == 1 else 1
            apart = separable is not None and depth >= separable
            x = _convolved(x, width, strides, separable=apart)
            pooled = depth < len(widths) and strides == 1
            if pooled and pooled_first:
                x = _pool(x, blurred=blurred)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
            if pooled and not pooled_first:
                x = _pool(x, blurred=blurred)
            if excite:
                squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
                narrow = layers.Conv2D(max(width // 4, 4), 1, activation="relu")(squeezed)
                x = layers.Multiply()([x, layers.Conv2D(width, 1, activation="sigmoid")(narrow)])
            if residual and depth > len(widths) - 2:
                more = _convolved(x, width, 1, separable=separable is not None)
                x = layers.Add()([x, layers.ReLU()(layers.BatchNormalization(momentum=0.9)(more))])
        x = layers.GlobalAveragePooling2D(name=network.FEATURES)(x)
        x = layers.Dense(1, name="logit")(x)
        return keras.Model(cell, layers.Activation("sigmoid")(x))

    return build


def mix(images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix-up (Zhang et al. 2018, arXiv:1710.09412) with alpha 0.2: each cell with another of the batch."""
    first, second = (tf.random.gamma([tf.shape(images)[0]], 0.2) for _ in range(2))
    share = tf.math.divide_no_nan(first, first + second)
    share = tf.maximum(share, 1 - share)
    mixed = share[:, None, None, None] * images + (1 - share)[:, None, None, None] * tf.roll(images, 1, 0)
    return mixed, share * targets + (1 - share) * tf.roll(targets, 1, 0)


def rescale(images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Resize-jitter: half of the batches are scaled down, smoothed, to 60 to 100 % and back up."""
    size = images.shape[1]
    small = tf.random.uniform([], int(0.6 * size), size, tf.int32)
    down = tf.image.resize(images, [small, small], antialias=True)
    back = tf.ensure_shape(tf.image.resize(down, [size, size]), images.shape)
    return tf.where(tf.random.uniform([]) < 0.5, back, images), targets


def bend(images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Elastic: each cell is bent smoothly by up to about two pixels, by a 4 x 4 grid of random shifts."""
    count, size = tf.shape(images)[0], images.shape[1]
    shifts = tf.image.resize(tf.random.normal([count, 4, 4, 2]), [size, size], "bicubic")
    places = tf.stack(tf.meshgrid(tf.range(size), tf.range(size), indexing="ij"), axis=-1)
    source = tf.clip_by_value(tf.cast(places, tf.float32) + shifts, 0.0, size - 1.0)
    nearest = tf.cast(tf.round(source), tf.int32)
    return tf.gather_nd(images, nearest, batch_dims=1), targets


class Robust(keras.losses.Loss):  # type: ignore[misc]
    """Generalised cross-entropy (Zhang & Sabuncu 2018, arXiv:1805.07836) with q = 0.7, added up over cells: a
    label that the network finds unlikely pulls less.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__(reduction="sum")
        self.smoothing = smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        y = y_true * (1 - self.smoothing) + self.smoothing / 2
        p = tf.clip_by_value(y_pred, 1e-7, 1 - 1e-7)
        return tf.reduce_mean((y * (1 - p**0.7) + (1 - y) * (1 - (1 - p) ** 0.7)) / 0.7, axis=-1)


def mixed_with_opinion(
    cells: training.Cells, opinion: npt.NDArray[np.float64], epoch: int, how: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Self-distillation (Kim et al. 2021, arXiv:2006.12000): from the third epoch on, 30 % of each target is
    what the network has thought of the cell so far; of listed labels in doubt, all of it.
    """
    targets, trust = training.lessons(cells, opinion, epoch, how)
    if epoch < 2:
        return targets, trust
    share = np.full(len(targets), 0.3)
    if cells.doubtful is not None:
        share[cells.doubtful] = 1
        trust = np.ones_like(trust)
    return ((1 - share) * targets + share * opinion).astype(np.float32), trust


_WIDE = (24, 48, 96, 128)

ROWS: dict[str, Variant] = {
    "recipe": Variant("the recipe"),
    "as_given": Variant("labels in doubt kept", {"noisy_labels": "keep"}),
    "opinion": Variant(
        "in doubt is what the network's own opinion contradicts",
        {"noisy_labels": "drop"},
        listed=False,
    ),
    "strided": Variant("a stem of stride 2, 32 wide", build=shaped((32, 64, 96, 128), 2)),
    "no_average": Variant("no averaging of weights", {"averaging": 0.0}),
    "mix_up": Variant("mix-up", alter=mix),
    "separable": Variant("the last convolution separable: 33,000 parameters", build=shaped(separable=4)),
    "wide": Variant("wider: 24, 48, 96, 128", build=shaped(_WIDE)),
    "no_colour": Variant("no stain jitter", {"colour": 0.0, "brightness": 0.0}),
    "more_colour": Variant("twice the stain jitter", {"colour": 0.2, "brightness": 0.2}),
    "excite": Variant("squeeze and excitation", build=shaped(excite=True)),
    "blurred": Variant("anti-aliased pooling", build=shaped(blurred=True)),
    "elastic": Variant("elastic bending", alter=bend),
    "rescaled": Variant("resize-jitter", alter=rescale),
    "no_smoothing": Variant("no label smoothing", {"label_smoothing": 0.0}),
    "residual": Variant("two more convolutions, bypassed", build=shaped((16, 32, 64, 96), residual=True)),
    "light": Variant(
        "the last convolution separable, and two more, bypassed, separable too",
        build=shaped(separable=4, residual=True),
    ),
    "classic": Variant("pooled after the activation", build=shaped(pooled_first=False)),
    "distilled": Variant("distilled from two others, four views of each", teachers=(network.build,) * 2),
    "self_taught": Variant("its own opinion mixed into the labels", teach=mixed_with_opinion),
    "longer": Variant("twice the epochs", times=2),
    "robust": Variant("labels in doubt kept, a noise-robust loss", {"noisy_labels": "keep"}, loss=Robust),
    "normalised": Variant("stain normalised", build=shaped(normalised=True)),
    "soften": Variant("labels in doubt softened", {"noisy_labels": "soften"}),
}


def _convolved(x: Any, width: int, stride: int, *, separable: bool) -> Any:
    if not separable:
        return layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
    x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
    return layers.Conv2D(width, 1, padding="same", use_bias=False)(x)


def _pool(x: Any, *, blurred: bool) -> Any:
    if not blurred:
        return layers.MaxPooling2D(2)(x)
    x = layers.MaxPooling2D(2, strides=1, padding="same")(x)
    return layers.DepthwiseConv2D(
        3, strides=2, padding="same", use_bias=False, depthwise_initializer=_binomial, trainable=False
    )(x)


def _same_stain(cell: Any) -> Any:
    """Each cell with the same mean of every channel, over its pixels that are not black: what stain and light
    give to all of them.
    """
    shown = keras.ops.cast(keras.ops.max(cell, axis=-1, keepdims=True) > 20, "float32")
    area = keras.ops.maximum(keras.ops.sum(shown, axis=(1, 2), keepdims=True), 1)
    mean = keras.ops.sum(cell * shown, axis=(1, 2), keepdims=True) / area
    return keras.ops.minimum(cell * (170 / keras.ops.maximum(mean, 20)), 255)


def _binomial(shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
    """The blur of 3 x 3 px, [1, 2, 1] either way, for each channel; `shape` (3, 3, width, 1)."""
    row = tf.constant([0.25, 0.5, 0.25])
    return tf.cast(tf.broadcast_to((row[:, None] * row)[:, :, None, None], shape), dtype or tf.float32)
