"""From the trained network to a bundle."""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from malaria import bundle, evaluation, files, metrics
from malaria.errors import UserError

# Shares of red cells that carry parasites, for the predictive values on the card.
PARASITAEMIAS = (0.001, 0.01, 0.05)

# Largest difference of the float32 bundle's probabilities from Keras's.
_TOLERANCE = {"float32": 1e-5, "float16": 2e-2}


def convert(model: Any, precision: str) -> bytes:
    """The network as a LiteRT flatbuffer with two outputs: P(parasitised) and the last features."""
    import keras
    import tensorflow as tf

    from malaria import network

    outputs = [model.output, model.get_layer(network.FEATURES).output]
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(model.inputs, outputs))
    if precision == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    # The converter reports every variable it saves; none of it is of use to a reader.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        return bytes(converter.convert())


def code_hash(modules: Sequence[Path]) -> str:
    """One SHA-256 over the names and contents of source files."""
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update(f"{module.as_posix()}\0{files.sha256(module)}\n".encode())
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """The versions of the libraries that shape a bundle."""
    names = ("ai-edge-litert", "keras", "numpy", "pillow", "tensorflow")
    return {name: importlib.metadata.version(name) for name in names}


def check_agreement(p_bundle: metrics.Floats, p_keras: metrics.Floats, precision: str) -> float:
    """The largest difference of two networks' probabilities; UserError beyond the precision's due."""
    difference = float(np.abs(p_bundle - p_keras).max(initial=0.0))
    if difference > _TOLERANCE[precision]:
        raise UserError(
            f"The exported network differs from the trained one by {difference:.2g} in probability, more "
            f"than {_TOLERANCE[precision]:g}: set export.precision to float32 in params.yaml, or report this."
        )
    return difference


def operating_points(fitted: evaluation.Fitted) -> tuple[bundle.OperatingPoint, ...]:
    """The bundle's operating points, as fitted on val."""
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


def write_parts(folder: Path, record: bundle.Record, parts: dict[str, bytes]) -> bundle.Record:
    """Write what goes with the network, by the names of `bundle.PARTS`; the record with their hashes."""
    for name, content in parts.items():
        (folder / bundle.PARTS[name]).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    return record.model_copy(update={"hashes": record.hashes | hashes})


def figures(sides: dict[str, dict[str, Any]], curves: dict[str, pd.DataFrame]) -> bytes:
    """`figures.json`: `evaluation.score` of each side, the judged one last, and the columns of its plots."""
    # The confusion plot has a row for every cell; the rates say the same.
    plots = {name: curve.to_dict("list") for name, curve in curves.items() if name != "confusion"}
    content = {"judged": list(sides)[-1], "sides": sides, "plots": plots}
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def render_card(
    record: bundle.Record, parameters: int, sides: dict[str, dict[str, Any]], origin: str = ""
) -> str:
    """`MODEL_CARD.md`, every figure from bundles' own predictions.

    Args:
        sides: `evaluation.score` of each side; temperature and operating points were fitted on the
            first, and the figures to go by are the last one's. One side alone is out of fold.
        origin: what else there is to say of the data and of how the bundle was made, as Markdown.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("malaria", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["figure"] = _figure
    judged = list(sides)[-1]
    return environment.get_template("model_card.md.j2").render(
        record=record,
        sides=sides,
        fitted_on=next(iter(sides)),
        judged=judged,
        figures=sides[judged],
        parameters=parameters,
        points=_points(record, sides[judged], next(iter(sides))),
        parasitaemias=PARASITAEMIAS,
        origin=origin,
    )


def _points(record: bundle.Record, judged: dict[str, Any], fitted_on: str) -> list[dict[str, Any]]:
    """The card's table of operating points: 0.5 first, then those that were fitted."""
    rows: list[dict[str, Any]] = [
        {"name": "0.5", "threshold": 0.5, **{key: judged[key] for key in ("sensitivity", "specificity")}}
    ]
    for point in record.operating_points:
        at = judged[f"at_{point.specificity * 100:g}_specificity"]
        rows.append({"name": f"{point.specificity:.0%} specificity {fitted_on}", **at})
    for row in rows:
        rates = row["sensitivity"]["value"], row["specificity"]["value"]
        row["ppv"] = [
            metrics.ppv(*rates, parasitaemia) if None not in rates else math.nan
            for parasitaemia in PARASITAEMIAS
        ]
    return rows


def _figure(estimate: dict[str, float | None]) -> str:
    """A figure with its interval, for people: `0.957 (0.944 to 0.966)`."""
    if estimate["value"] is None:
        return "not known"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
