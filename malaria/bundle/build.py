"""Putting a bundle together: the network, what was fitted on its predictions, its figures and its card."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pandas as pd

from malaria import bundle, files, labels, params
from malaria.bundle import card, fingerprints, ood
from malaria.cells import doubtful_labels, images
from malaria.evaluate import calibration, evaluation, plots

# What shapes the network's answers; a change elsewhere leaves the bundle's code hash alone.
CODE = (
    "bundle/convert",
    "bundle/ood",
    "cells/doubtful_labels",
    "cells/images",
    "cells/packed",
    "evaluate/calibration",
    "train/augmentation",
    "train/backend",
    "train/cell_random",
    "train/devices",
    "train/network",
    "train/training",
)


def draft(settings: params.Params, size: int, network: bytes, hashes: dict[str, str]) -> bundle.Record:
    """The record of a bundle before anything is fitted: enough to load it and let it judge cells.

    Args:
        size: px, the network's input.
        hashes: of what else it was made of; the network's own is added.
    """
    return bundle.Record(
        schema_version=2,
        name="malaria-cells",
        research_use_only=True,
        synthetic=settings.data.source == "sample",
        data_source=settings.data.source,
        input_size=size,
        min_side=settings.audit.min_side,
        max_pixels=settings.audit.max_pixels,
        resize=images.RESIZE,
        labels=labels.LABELS,
        positive=labels.POSITIVE,
        precision=settings.export.precision,
        temperature=1.0,
        operating_points=(),
        hashes={"network": hashlib.sha256(network).hexdigest(), **hashes},
        libraries=library_versions(),
    )


def finish(
    folder: Path,
    network: bytes,
    record: bundle.Record,
    fitted_gate: ood.Gate,
    sides: dict[str, pd.DataFrame],
    made_with: fingerprints.Marks,
    parameters: int,
    settings: params.Evaluate,
    origin: str = "",
    by_patient: bool = True,
) -> bundle.Record:
    """Write a whole bundle into `folder`.

    Args:
        record: as `draft` gives it.
        fitted_gate: fitted on the cells that the network was trained on, its limits set.
        sides: what exported networks said of cells that they were not trained on, columns path, patient,
            label, p_network and rejected (why, or an empty text). Temperature and operating points are
            fitted on the first, the last is what the bundle is judged by.
        made_with: the cells that any choice was made with.
        parameters: of the network.
        origin, by_patient: as `card.render` takes them.

    Returns:
        The record as written.
    """
    fitted = evaluation.fit(next(iter(sides.values())), settings)
    listed = doubtful_labels.read(Path(settings.doubtful_labels), "evaluate.doubtful_labels")
    scores = {
        name: evaluation.score(side, fitted, settings, listed) | {"rejected": evaluation.rejections(side)}
        for name, side in sides.items()
    }
    judged = sides[list(sides)[-1]]
    p = calibration.apply(judged.p_network.to_numpy(), fitted.temperature)
    curves = plots.frames(judged.assign(p_parasitized=p), settings.bins, settings.min_cells)
    record = record.model_copy(
        update={"temperature": fitted.temperature, "operating_points": _operating_points(fitted)}
    )
    parts = {
        "figures": _figures(scores, curves),
        "trained_on": fingerprints.to_bytes(made_with),
        "gate": ood.to_bytes(fitted_gate),
    }
    record = _write_parts(folder, record, parts)
    write(folder, network, record, card.render(record, parameters, scores, origin, by_patient=by_patient))
    return record


def code_hash() -> str:
    """One SHA-256 over the names and contents of the modules in `CODE`."""
    digest = hashlib.sha256()
    for name in CODE:
        module = Path(__file__).parents[1] / f"{name}.py"
        digest.update(f"malaria/{name}.py\0{files.sha256(module)}\n".encode())
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """The versions of the libraries that shape a bundle."""
    names = ("ai-edge-litert", "keras", "numpy", "pillow", "tensorflow")
    return {name: importlib.metadata.version(name) for name in names}


def _operating_points(fitted: evaluation.Fitted) -> tuple[bundle.OperatingPoint, ...]:
    """The bundle's operating points, as fitted."""
    return tuple(
        bundle.OperatingPoint(specificity=wanted, threshold=threshold)
        for wanted, threshold in fitted.thresholds.items()
    )


def write(folder: Path, network: bytes, record: bundle.Record, card: str) -> None:
    """Write a bundle's three files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / bundle.NETWORK).write_bytes(network)
    files.write_json(folder / bundle.RECORD, record.model_dump(mode="json"))
    files.write_text(folder / bundle.CARD, card)


def _write_parts(folder: Path, record: bundle.Record, parts: dict[str, bytes]) -> bundle.Record:
    """Write what goes with the network, by the names of `bundle.PARTS`; the record with their hashes."""
    for name, content in parts.items():
        (folder / bundle.PARTS[name]).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    return record.model_copy(update={"hashes": record.hashes | hashes})


def _figures(sides: dict[str, dict[str, Any]], curves: dict[str, pd.DataFrame]) -> bytes:
    """`figures.json`: `evaluation.score` of each side, the judged one last, and the columns of its plots."""
    # The confusion plot has a row for every cell; the rates say the same.
    plots = {name: curve.to_dict("list") for name, curve in curves.items() if name != "confusion"}
    content = {"judged": list(sides)[-1], "sides": sides, "plots": plots}
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
