"""Evaluate a bundle on a folder of labelled cells, with the pipeline's audit, metrics and intervals."""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from malaria import params, predict, tables
from malaria.bundle import Bundle
from malaria.bundle.ood import FOREIGN, Looks
from malaria.cells import audit, patients, splits
from malaria.errors import UserError
from malaria.evaluate import calibration, evaluation, metrics
from malaria.fetch import archives
from malaria.fetch import folder as own_cells
from malaria.paths import PARAMS, ROOTS
from malaria.predict import external
from malaria.predict.rows import Row, check_out, disk_errors, predict_decoded, save


@dataclass(frozen=True)
class _LabelledRow(Row):
    """A row with the cell's label and patient; `patient` is never empty."""

    label: str
    patient: str


def evaluate(
    bundle: Bundle, folder: Path, classes: dict[str, str] | None = None, out: str | None = None
) -> dict[str, Any]:
    """`evaluation.score` on every accepted cell of `folder`, at the bundle's own operating points.

    Resamples, bins and least cells per patient come from params.yaml, as in the pipeline.

    Args:
        classes: label by name of class folder, in addition to the labels' own names; data.classes if empty.
        out: a file or an object for a CSV row for each cell that was not set aside.

    Returns:
        What `evaluation.score` gives, and: rejected, `evaluation.rejections` of the cells that the bundle
        rejects, which have no probability and count in no figure; set_aside, the images that the audit sets
        aside; left_out, the files that are not cells; came_as, how many cells came as train, val and test;
        known, how many judged cells the bundle was made with, and the figures `without` them (None if none
        are left), or None if the bundle cannot tell; foreign, as in `Bundle.foreign`.

    Raises:
        UserError: there is no folder or archive, or it has no class folders; too many images are set aside; a
            class has no readable cell; or all cells are rejected.
    """
    if not folder.is_dir() and not archives.is_archive(folder):
        problem = "no folder, zip or tar" if folder.exists() else "not there, on this machine"
        raise UserError(f"{folder} is {problem}: name a folder or archive with one sub-folder per class.")
    if out is not None:
        check_out(out)
    settings, record = _settings(), bundle.record
    data = {"folder": os.path.abspath(folder), "classes": classes or settings.data.classes}
    limits = settings.audit.model_copy(update={"min_side": record.min_side, "max_pixels": record.max_pixels})
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary)
        left_out = own_cells.fetch(settings.data.model_copy(update=data), raw).ignored
        images = audit.audit(raw, limits)
        audit.check(images, limits, folder)
        cells = patients.accepted(images)
        decoded = external.read(bundle, raw, cells)
    looks = Looks()
    rows = list(predict_decoded(bundle, list(cells.path), decoded, looks=looks))
    known = bundle.known(cell.pixels for cell, _ in decoded)
    if out is not None:
        columns = zip(rows, cells.label, cells.patient, strict=True)
        table = (_LabelledRow(**vars(row), label=label, patient=patient) for row, label, patient in columns)
        with disk_errors(out):
            save(table, out, _LabelledRow)
    p = np.array([row.p_parasitized for row in rows], dtype=np.float64)
    cells = cells.assign(
        # Undo the calibration, because `evaluation.score` takes the network's own probabilities.
        p_network=calibration.apply(p, 1 / record.temperature),
        rejected=[row.reason if row.status == predict.REJECTED else "" for row in rows],
    )
    judged = cells[cells.rejected == ""]
    if judged.empty:
        raise UserError(
            f"{folder}: the model turns away all {len(cells):,} images ({rows[0].path}: {rows[0].reason}); "
            "give it crops of single stained red cells on black."
        )
    points = {point.specificity: point.threshold for point in record.operating_points}
    fitted = evaluation.Fitted(record.temperature, points)
    scores = evaluation.score(judged, fitted, settings.evaluate)
    sides = splits.sides_by_folder(cells)
    aside = images[images.status == tables.QUARANTINED]
    return scores | {
        "foreign": bundle.foreign(looks),
        "rejected": evaluation.rejections(cells),
        "set_aside": {"of": len(images), "images": len(aside), "reasons": audit.count_reasons(aside)},
        "left_out": list(left_out),
        "came_as": {} if sides is None else {side: int((sides == side).sum()) for side in tables.SPLIT_NAMES},
        "known": None if known is None else _known_figures(judged, known[judged.index], fitted, settings),
    }


def as_text(scores: dict[str, Any]) -> str:
    """The result of `evaluate`, for a terminal."""
    rejected, aside, sides = scores["rejected"], scores["set_aside"], scores["came_as"]
    known = scores["known"] or {"cells": 0, "without": None}
    rest = known["cells"] and known["without"]
    lines = [FOREIGN] if scores["foreign"] else []
    lines += [evaluation.as_text(scores, {"all": scores, "without known cells": rest} if rest else {})]
    if known["cells"]:
        lines.append(
            f"{known['cells']:,} of {scores['cells']:,} cells are among those that the model learned from, "
            "or copies of them: no figure with them says how it does on new cells."
        )
    if rejected["cells"]:
        lines += [
            f"{rejected['cells']:,} of {rejected['of']:,} images were turned away and count in no figure "
            f"above ({rejected['parasitized']:,} of them are labelled parasitised):",
            *_reason_lines(rejected["reasons"]),
        ]
    if aside["images"]:
        lines += [
            f"{aside['images']:,} of {aside['of']:,} images were set aside before that and were not judged:",
            *_reason_lines(aside["reasons"]),
        ]
    if sides:
        listing = ", ".join(f"{side} ({count:,})" for side, count in sides.items())
        lines.append(f"The cells come in {listing}: all count.")
    return "\n".join([*lines, *(f"Left out: {kind}." for kind in scores["left_out"])])


def _settings() -> params.Params:
    """The current folder's params.yaml if it is one of this project, else the one in the package."""
    *others, packaged = [root / PARAMS for root in ROOTS if (root / PARAMS).is_file()]
    for file in others:
        with contextlib.suppress(UserError):
            return params.load_params(file)
    return params.load_params(packaged)


def _known_figures(
    judged: pd.DataFrame, known: metrics.Bools, fitted: evaluation.Fitted, settings: params.Params
) -> dict[str, Any]:
    """How many of the `judged` cells are `known`, bool (n,), and the figures without these, for JSON."""
    rest = judged[~known]
    figures = None if rest.empty else evaluation.score(rest, fitted, settings.evaluate)
    return {"cells": int(known.sum()), "without": figures}


def _reason_lines(reasons: dict[str, int]) -> list[str]:
    return [f"  {count:,}: {reason}" for reason, count in reasons.items()]
