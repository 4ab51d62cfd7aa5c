"""The rows of `python -m experiments.ablate`: each changes one thing of the recipe in params.yaml.

What helps in cross-validation is taken over into the library or params.yaml. Rows that ended in nothing are
gone; docs/model.md has their figures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from malaria.train import network
from malaria.train.backend import keras

layers = keras.layers

RECIPE = "recipe"


@dataclass(frozen=True)
class Variant:
    """A row: what it is, in words; `settings` of section train that differ, and how many times the epochs; or
    another network, made for a size in px.
    """

    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    times: int = 1
    build: Callable[[int], keras.Model] = network.build


def wide(size: int) -> keras.Model:
    """The pipeline's network, half as wide again where it is narrow."""
    return plain(size, (24, 48, 96, 128))


def excited(size: int) -> keras.Model:
    """Squeeze and excitation (Hu et al. 2018, arXiv:1709.01507) after each activation."""

    def excite(x: Any, width: int, _: int) -> Any:
        squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
        narrow = layers.Conv2D(max(width // 4, 4), 1, activation="relu")(squeezed)
        return layers.Multiply()([x, layers.Conv2D(width, 1, activation="sigmoid")(narrow)])

    return plain(size, network.WIDTHS, excite)


def residual(size: int) -> keras.Model:
    """A second, bypassed convolution at the two coarsest scales (He et al. 2016, arXiv:1512.03385)."""

    def bypass(x: Any, width: int, depth: int) -> Any:
        return layers.Add()([x, _convolved(x, width, pooled=False)]) if depth > 2 else x

    return plain(size, (16, 32, 64, 96), bypass)


ROWS: dict[str, Variant] = {
    RECIPE: Variant("the recipe"),
    "as_given": Variant("labels in doubt kept", {"noisy_labels": "keep"}),
    "soften": Variant("labels in doubt softened", {"noisy_labels": "soften"}),
    "no_average": Variant("no averaging of weights", {"averaging": 0.0}),
    "no_smoothing": Variant("no label smoothing", {"label_smoothing": 0.0}),
    "no_colour": Variant("no stain jitter", {"colour": 0.0, "brightness": 0.0}),
    "more_colour": Variant("twice the stain jitter", {"colour": 0.2, "brightness": 0.2}),
    "longer": Variant("twice the epochs", times=2),
    "wide": Variant("wider: 24, 48, 96, 128", build=wide),
    "excite": Variant("squeeze and excitation", build=excited),
    "residual": Variant("two more convolutions, bypassed", build=residual),
}


def plain(
    size: int, widths: tuple[int, ...], after: Callable[[Any, int, int], Any] = lambda x, *_: x
) -> keras.Model:
    """Like `network.build`; `after` takes what each convolution gives, its width, and its depth from 1."""
    cell = keras.Input((size, size, 3), name="cell")
    x = layers.Rescaling(1 / 255)(cell)
    for depth, width in enumerate(widths, start=1):
        x = after(_convolved(x, width, pooled=depth < len(widths)), width, depth)
    x = layers.Dense(1, name="logit")(layers.GlobalAveragePooling2D(name=network.FEATURES)(x))
    return keras.Model(cell, layers.Activation("sigmoid")(x))


def _convolved(x: Any, width: int, *, pooled: bool) -> Any:
    x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
    x = layers.MaxPooling2D(2)(x) if pooled else x
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
