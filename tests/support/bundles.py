"""A model bundle for tests, made without training and read without TensorFlow.

Its networks are in tests/support/*.tflite; `python -m tests.support.bundles` makes these files again.
"""

import functools
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from app import pictures
from malaria import bundle, files, labels, predict
from malaria.bundle import fingerprints, not_cells, ood
from malaria.cells import images, prepare
from malaria.predict import inputs

NETWORK = Path(__file__).parent / "violet.tflite"
MAPPED = Path(__file__).parent / "violet_map.tflite"
SIZE = 50
POINTS = ((0.95, 0.6), (0.97, 0.7), (0.99, 0.8))


def violet(folder: Path, gated: bool = False, mapped: bool = False) -> Path:
    """Write a bundle whose network looks for violet: P depends on the most violet spot of the cell.

    Args:
        folder: a new folder for the bundle.
        gated: with an out-of-distribution check, fitted on 400 synthetic cells, and a manifest (schema 2);
            else without both, as bundles of schema 1.
        mapped: schema 3, with a network that sums up all violet of the cell, and has a map of it.
    """
    folder.mkdir(parents=True)
    (folder / bundle.NETWORK).write_bytes((MAPPED if mapped else NETWORK).read_bytes())
    (folder / bundle.PARTS["figures"]).write_text(json.dumps(_figures()), encoding="utf-8")
    seen = fingerprints.of(images.resize(pixels, SIZE) for pixels, _ in drawn_cells()[:4])
    (folder / bundle.PARTS["trained_on"]).write_bytes(fingerprints.to_bytes(seen))
    (folder / bundle.CARD).write_text("# Model card: violet spots\n", encoding="utf-8")
    if gated:
        (folder / bundle.PARTS["gate"]).write_bytes(ood.to_bytes(_gate()))
    parts = {name: file for name, file in bundle.PARTS.items() if gated or name != "gate"}
    members = {"network": bundle.NETWORK, **parts}
    record = bundle.Record(
        schema_version=3 if mapped else 2 if gated else 1,
        name="malaria-cells",
        research_use_only=True,
        synthetic=True,
        data_source="sample",
        input_size=SIZE,
        min_side=16,
        max_pixels=4_000_000,
        resize=images.RESIZE,
        labels=labels.LABELS,
        positive=labels.PARASITIZED,
        precision="float32",
        temperature=1.0,
        operating_points=tuple(
            bundle.OperatingPoint(specificity=specificity, threshold=threshold)
            for specificity, threshold in POINTS
        ),
        hashes={
            name: hashlib.sha256((folder / file).read_bytes()).hexdigest() for name, file in members.items()
        },
        libraries={},
    )
    files.write_json(folder / bundle.RECORD, record.model_dump(mode="json"))
    if gated:
        bundle.write_manifest(folder)
    return folder


def drawn_cells() -> list[tuple[images.Pixels, bool]]:
    """Twelve synthetic cells, and whether each is parasitised."""
    return pictures.cells(12, seed=3)


def plain(model: Path, paths: list[str]) -> bytes:
    """The CSV that `predict` writes for `paths` without an engine."""
    out = io.StringIO(newline="")
    predict.write(predict.predict(bundle.load(model), inputs.find(paths)), out)
    return out.getvalue().encode("utf-8", "surrogateescape")


@functools.cache
def _gate() -> ood.Check:
    """An out-of-distribution check, fitted on synthetic cells and the violet network's one feature."""
    crops = [pixels for pixels, _ in pictures.cells(400, seed=7)]
    no_cells = not_cells.all_kinds(crops[:20], 6, seed=7)
    cells, others = seen(crops), seen([picture for kind in no_cells.values() for picture in kind])
    learnt, held_out = (
        ood.Seen(cells.cells[rows], cells.features[rows]) for rows in (slice(200), slice(200, None))
    )
    fitted = ood.fit(learnt, others)
    return replace(fitted, limits=ood.limits(ood.distances(fitted, held_out)))


def seen(crops: list[images.Pixels]) -> ood.Seen:
    """Prepared crops, with the features that the violet network gives them."""
    network = Interpreter(model_path=str(NETWORK)).get_signature_runner()
    cells = [prepare.prepare(crop, SIZE, prepare.AS_IS) for crop in crops]
    pixels = np.stack([cell.pixels for cell in cells]).astype(np.float32)
    return ood.Seen(cells, network(cell=pixels)[sorted(network.get_output_details())[1]])


def _figures() -> dict[str, object]:
    """A `figures.json` with what the page shows: a few figures, and curves of a few points."""
    figure = {"value": 0.9, "low": 0.8, "high": 0.95}
    keys = ("sensitivity", "specificity", "worst_decile_sensitivity", "auc", "accuracy", "ece")
    points = {
        f"at_{100 * specificity:g}_specificity": {
            "sensitivity": figure,
            "specificity": {"value": specificity, "low": 0.9, "high": 1.0},
        }
        for specificity, _ in POINTS
    }
    scores = {"cells": 40, "patients": 8, **dict.fromkeys(keys, figure), **points}
    curve = [0.0, 0.5, 1.0]
    plots = {
        "roc": {"one_minus_specificity": curve, "sensitivity": curve},
        "precision_recall": {"sensitivity": curve, "precision": curve},
        "reliability": {"mean_probability": curve, "share_parasitized": curve},
        "scores": {
            "p_parasitized": [0.25, 0.5, 0.75],
            "parasitized_cells": [1, 5, 9],
            "uninfected_cells": [9, 5, 1],
        },
    }
    return {"judged": "test", "sides": {"val": scores, "test": scores}, "plots": plots}


def _network(mapped: bool = False) -> bytes:
    from malaria.bundle import convert
    from malaria.train import network
    from malaria.train.backend import keras

    layers = keras.layers
    cell = keras.Input((SIZE, SIZE, 3), name="cell")
    colour = layers.Conv2D(1, 1, activation="relu", name="violet")
    pooling = layers.GlobalAveragePooling2D if mapped else layers.GlobalMaxPooling2D
    logit = layers.Dense(1, name=network.LOGIT)
    x = layers.AveragePooling2D(*((5, 5) if mapped else (3, 1)))(colour(layers.Rescaling(1 / 255)(cell)))
    x = logit(pooling(name=network.FEATURES)(x))
    model = keras.Model(cell, layers.Activation("sigmoid", name=network.PROBABILITY)(x))
    # Blue above green: 0.06 in the cell, 0.27 in a parasite, 0 outside.
    colour.set_weights([np.array([0.0, -1.0, 1.0]).reshape(1, 1, 3, 1), np.array([-0.1])])
    logit.set_weights(
        [np.array([[8000.0]]), np.array([-3.0])] if mapped else [np.array([[60.0]]), np.array([-4.0])]
    )
    return convert.convert(model, "float32", np.zeros((1, SIZE, SIZE, 3), np.uint8))


if __name__ == "__main__":
    NETWORK.write_bytes(_network())
    MAPPED.write_bytes(_network(mapped=True))
