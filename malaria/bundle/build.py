"""Build a bundle: export the network, fit what depends on its predictions, and write the folder."""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from malaria import bundle, files, labels, params, paths
from malaria.bundle import card, convert, fingerprints, not_cells, ood
from malaria.cells import doubtful_labels, images, packed
from malaria.cells.prepared import Prepared
from malaria.evaluate import calibration, evaluation, plots
from malaria.train import augmentation, network

# Modules that shape what the network answers, by room. A change elsewhere leaves the code hash as it is.
CODE = {
    "bundle": ("convert", "not_cells", "ood"),
    "cells": ("decoding", "doubtful_labels", "images", "packed", "prepare", "prepared"),
    "evaluate": ("calibration",),
    "train": ("augmentation", "backend", "devices", "network", "training"),
}

# Libraries that shape a bundle; their versions go into its record.
LIBRARIES = ("ai-edge-litert", "keras", "numpy", "pillow", "tensorflow")

# For the out-of-distribution check: one training cell in _AUGMENT_EVERY is also used augmented; pictures of
# each kind that are not cells; their seed; the number of training cells from which the spoilt ones are made.
_AUGMENT_EVERY, _PICTURES_PER_KIND, _SEED, _CELLS_TO_SPOIL = 2, 24, 0, 400


@dataclass(frozen=True)
class Exported:
    """A trained network as apps run it.

    `network`: the content of the LiteRT file. `parameters`: its number of parameters. `model`: the same
    network as a bundle without anything fitted yet.
    """

    network: bytes
    parameters: int
    model: bundle.Bundle


def export(model: Any, train: Sequence[Prepared], settings: params.Params, splits: Path) -> Exported:
    """Convert a trained network, a keras.Model, at `settings.export.precision`.

    Args:
        train: the cells that it was trained on.
        splits: the file that lists these cells; its hash goes into the record.

    Raises:
        UserError: the network is larger than `convert.check_size` allows.
    """
    pixels = [cell.pixels for cell in train]
    content = convert.convert(network.fused(model), settings.export.precision, pixels)
    convert.check_size(content, model.count_params())
    record = bundle.Record(
        schema_version=3,
        name="malaria-cells",
        research_use_only=True,
        synthetic=settings.data.source == "sample",
        data_source=settings.data.source,
        input_size=model.input_shape[1],
        min_side=settings.audit.min_side,
        max_pixels=settings.audit.max_pixels,
        resize=images.RESIZE,
        colour=settings.pack.colour,
        labels=labels.LABELS,
        positive=labels.PARASITIZED,
        precision=settings.export.precision,
        temperature=1.0,
        operating_points=(),
        hashes={
            "network": hashlib.sha256(content).hexdigest(),
            "data": files.sha256(paths.PACKED / packed.INDEX),
            "splits": files.sha256(splits),
            "code": code_hash(),
        },
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
    )
    return Exported(content, model.count_params(), bundle.open_network(record, content))


def fit_ood(
    model: bundle.Bundle, train: Sequence[Prepared], patient: npt.NDArray[np.str_], settings: params.Params
) -> ood.Check:
    """Fit the out-of-distribution check for an exported network.

    It learns from the cells that the network was trained on, from some of them augmented as in training, and
    from pictures that are not cells.

    Args:
        model: from `export`.
        train: the n cells that the network was trained on.
        patient: (m,), the patients of the first m of them; the others are other laboratories' cells.
    """
    subset = train[::_AUGMENT_EVERY]
    pixels = augmentation.augment_once(np.stack([cell.pixels for cell in subset]), settings.train)
    augmented = [
        replace(cell, pixels=model.prepare(image).pixels) for cell, image in zip(subset, pixels, strict=True)
    ]
    rows = np.random.default_rng(_SEED).permutation(len(train))[:_CELLS_TO_SPOIL]
    pictures = not_cells.all_kinds([train[row].pixels for row in rows], _PICTURES_PER_KIND, _SEED)
    others = [model.prepare(picture) for kind in pictures.values() for picture in kind]
    cells = [*train, *augmented]
    train_pictures = ood.Seen(cells, model.run_prepared(cells).features)
    check = ood.fit(train_pictures, ood.Seen(others, model.run_prepared(others).features))
    return ood.with_patients(check, train_pictures.look[: len(patient)], patient)


def write(
    folder: Path,
    exported: Exported,
    fitted_ood: ood.Check,
    sides: dict[str, pd.DataFrame],
    made_with: fingerprints.Fingerprints,
    settings: params.Evaluate,
    background: card.Background,
) -> None:
    """Write the bundle into `folder`; its manifest also lists the files that are already there.

    Args:
        fitted_ood: the out-of-distribution check, its limits set.
        sides: by name, predictions of cells that the predicting network was not trained on: columns path,
            patient, label, p_network and rejected (the reason, or an empty text). Temperature and operating
            points are fitted on the first side; the bundle is judged by the last.
        made_with: fingerprints of all cells that training or any other choice used.
    """
    fitted = evaluation.fit(next(iter(sides.values())), settings)
    doubtful = doubtful_labels.of_evaluation(settings)
    scores = {
        name: evaluation.score(side, fitted, settings, doubtful) | {"rejected": evaluation.rejections(side)}
        for name, side in sides.items()
    }
    judged = list(sides)[-1]
    curves = _curves(sides[judged], fitted, settings)
    figures = {"judged": judged, "sides": scores, "plots": curves, "laboratories": background.laboratories}
    parts = {
        "figures": (json.dumps(figures, indent=1, allow_nan=False) + "\n").encode(),
        "trained_on": fingerprints.to_bytes(made_with),
        "gate": ood.to_bytes(fitted_ood),
    }
    record = _completed(exported.model.record, fitted, parts)
    for name, content in parts.items():
        (folder / bundle.PARTS[name]).write_bytes(content)
    (folder / bundle.NETWORK).write_bytes(exported.network)
    files.write_json(folder / bundle.RECORD, record.model_dump(mode="json"))
    files.write_text(folder / bundle.CARD, card.render(record, exported.parameters, scores, background))
    bundle.write_manifest(folder)


def _curves(side: pd.DataFrame, fitted: evaluation.Fitted, settings: params.Evaluate) -> dict[str, Any]:
    """The curves of the plots, as lists for JSON."""
    p = calibration.apply(side.p_network.to_numpy(), fitted.temperature)
    curves = plots.frames(side.assign(p_parasitized=p), fitted, settings)
    # Without the confusion plot, which has a row for every cell: the rates say the same.
    return {name: curve.to_dict("list") for name, curve in curves.items() if name != "confusion"}


def _completed(record: bundle.Record, fitted: evaluation.Fitted, parts: dict[str, bytes]) -> bundle.Record:
    """The record with temperature, operating points, and the hashes of the files beside the network."""
    points = tuple(
        bundle.OperatingPoint(specificity=specificity, threshold=threshold)
        for specificity, threshold in fitted.thresholds.items()
    )
    hashes = record.hashes | {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    update = {"temperature": fitted.temperature, "operating_points": points, "hashes": hashes}
    return record.model_copy(update=update)


def code_hash() -> str:
    """One SHA-256 over the names and contents of the modules in `CODE`."""
    digest = hashlib.sha256()
    for name in (f"malaria/{room}/{module}.py" for room, modules in CODE.items() for module in modules):
        digest.update(f"{name}\0{files.sha256(Path(__file__).parents[2] / name)}\n".encode())
    return digest.hexdigest()
