"""The network: four convolutions, the first on the cell at full resolution, and one sigmoid unit.

The first convolution has stride 1: ring forms on a cell's rim are two or three pixels wide at 50 px, and a
larger stride loses them. Each convolution but the last is pooled before it is normalised, which saves three
quarters of the work on the largest arrays.
"""

import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from malaria import files, paths
from malaria.errors import UserError
from malaria.train.backend import keras

WIDTHS = (16, 32, 64, 128)
FEATURES = "features"
LOGIT = "logit"
PROBABILITY = "p_parasitized"

# The earliest date that a zip member can have.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build(size: int, *, synchronized: bool = False, fused: bool = False) -> keras.Model:
    """A network for cells of `size` px.

    Input float32 (n, size, size, 3) in [0, 255]; output float32 (n, 1), P(parasitised). About 98,000
    parameters at any size.

    Args:
        synchronized: for several devices: normalisation takes mean and variance over the whole batch, not
            over each device's part, so that the number of devices does not change what is learned.
        fused: as `fused` returns it: convolutions include rescaling and normalisation.
    """
    cell = keras.Input((size, size, 3), name="cell")
    x = cell if fused else keras.layers.Rescaling(1 / 255, name="rescale")(cell)
    activation = "relu" if fused else None
    for depth, width in enumerate(WIDTHS, start=1):
        name = f"conv{depth}"
        x = keras.layers.Conv2D(width, 3, padding="same", activation=activation, use_bias=fused, name=name)(x)
        if depth < len(WIDTHS):
            x = keras.layers.MaxPooling2D(2, name=f"pool{depth}")(x)
        if not fused:
            name = f"norm{depth}"
            x = keras.layers.BatchNormalization(momentum=0.9, synchronized=synchronized, name=name)(x)
            x = keras.layers.ReLU(name=f"relu{depth}")(x)
    x = keras.layers.GlobalAveragePooling2D(name=FEATURES)(x)
    x = keras.layers.Dense(1, name=LOGIT)(x)
    return keras.Model(cell, keras.layers.Activation("sigmoid", name=PROBABILITY)(x), name="malaria_cells")


def fused(model: keras.Model) -> keras.Model:
    """The network that `build` gives, with each normalisation merged into the convolution before it.

    Its output is the same but for rounding, with less work. Returns `model` itself if a trained scale is not
    positive: the convolution is pooled before it is normalised, and with a negative scale the largest of four
    values would become the smallest.
    """
    network = build(model.input_shape[1], fused=True)
    network.get_layer(LOGIT).set_weights(model.get_layer(LOGIT).get_weights())
    # The first convolution also includes the rescaling to [0, 1].
    unit = 1 / 255
    for depth in range(1, len(WIDTHS) + 1):
        kernel, norm = model.get_layer(f"conv{depth}").get_weights()[0], model.get_layer(f"norm{depth}")
        gamma, beta, mean, variance = norm.get_weights()
        scale = gamma / np.sqrt(variance + norm.epsilon)
        if scale.min() <= 0:
            return model
        network.get_layer(f"conv{depth}").set_weights([kernel * scale * unit, beta - mean * scale])
        unit = 1.0
    return network


def predict(model: keras.Model, images: npt.NDArray[np.uint8], batch: int = 256) -> npt.NDArray[np.float64]:
    """P(parasitised) of each image.

    Args:
        images: uint8 (n, size, size, 3), memory-mapped or not.

    Returns:
        float64 (n,) in [0, 1].
    """
    parts = [
        np.asarray(model(np.asarray(images[start : start + batch], dtype=np.float32), training=False))[:, 0]
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def save(model: keras.Model, path: Path) -> None:
    """Write `model` as a .keras file whose bytes depend on the model only, completely or not at all.

    Keras writes the time of saving into the archive's metadata and its members' headers, and memory addresses
    into its configuration; these are removed.
    """
    with files.atomic_path(path) as part, tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw.keras")
        model.save(raw)
        with zipfile.ZipFile(raw) as source, zipfile.ZipFile(part, "w") as target:
            for name in sorted(source.namelist()):
                target.writestr(zipfile.ZipInfo(name, _EPOCH), _reproducible(name, source.read(name)))


def load(path: Path) -> keras.Model:
    """Read a network that `save` wrote; UserError if it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro train`.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):
        raise UserError(f"{path} is damaged or no Keras model: run `dvc repro -f train`.") from None


def start_from(model: keras.Model, folder: Path) -> bool:
    """Give `model` the weights of the network in `folder`; return whether there is one.

    Raises:
        UserError: it is damaged, or of another shape.
    """
    path = folder / paths.MODEL.name
    if not path.is_file():
        return False
    weights = load(path).get_weights()
    if [array.shape for array in weights] != [array.shape for array in model.get_weights()]:
        raise UserError(
            f"params.yaml: train.start is {folder}, but {path.name} there is of another shape: name "
            "a network of this version."
        )
    model.set_weights(weights)
    return True


def _reproducible(name: str, content: bytes) -> bytes:
    """A member without what differs from run to run: the date, and memory addresses of objects."""
    if name == "metadata.json":
        metadata: dict[str, Any] = json.loads(content)
        metadata.pop("date_saved", None)
        return json.dumps(metadata, sort_keys=True).encode()
    if name == "config.json":
        numbers: dict[str, int] = {}

        def renumber(match: re.Match[str]) -> str:
            return f'"shared_object_id": {numbers.setdefault(match[1], len(numbers))}'

        return re.sub(r'"shared_object_id": (\d+)', renumber, content.decode()).encode()
    return content
