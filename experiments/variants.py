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


def plain(size: int, widths: tuple[int, ...]) -> keras.Model:
    """Like `network.build`, of other widths."""
    cell = keras.Input((size, size, 3), name="cell")
    x = layers.Rescaling(1 / 255)(cell)
    for depth, width in enumerate(widths, start=1):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.MaxPooling2D(2)(x) if depth < len(widths) else x
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dense(1, name="logit")(layers.GlobalAveragePooling2D(name=network.FEATURES)(x))
    return keras.Model(cell, layers.Activation("sigmoid")(x))


ROWS: dict[str, Variant] = {
    RECIPE: Variant("the recipe"),
    "as_given": Variant("labels in doubt kept", {"noisy_labels": "keep"}),
    "soften": Variant("labels in doubt softened", {"noisy_labels": "soften"}),
    "no_average": Variant("no averaging of weights", {"averaging": 0.0}),
    "no_smoothing": Variant("no label smoothing", {"label_smoothing": 0.0}),
    "no_colour": Variant("no stain jitter", {"colour": 0.0, "brightness": 0.0}),
    "more_colour": Variant("twice the stain jitter", {"colour": 0.2, "brightness": 0.2}),
    "longer": Variant("twice the epochs", times=2),
    "wide": Variant("wider: 24, 48, 96, 128", build=lambda size: plain(size, (24, 48, 96, 128))),
}
