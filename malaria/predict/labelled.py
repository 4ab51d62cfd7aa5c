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
from malaria.predict.rows import Row, check_out, disk_in_words, of_decoded, save


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
        classes: label by name of class folder, beside the labels' own names; data.classes if empty.
        out: a file or an object for a CSV row for each cell that was not set aside.

    Returns:
        What `evaluation.score` gives, and: rejected, `evaluation.rejections` of the cells that the bundle
        rejects, which have no probability and count in no figure; set_aside, the images that the audit sets
        aside; left_out, what is not a cell; came_as, how many cells came as train, val and test; known, how
        many judged cells the bundle was made with, and the figures `without` them (None if none are left), or
        None if the bundle cannot tell; foreign, as in `Bundle.foreign`.

    Raises:
        UserError: there is no folder or archive, or it has no class folders; too many images are set aside; a
            class has no readable cell; or all cells are rejected.
    """
    if not folder.is_dir() and not archives.is_archive(folder):
        what = "no folder, zip or tar" if folder.exists() else "not there, on this machine"
        raise UserError(f"{folder} is {what}: name a folder or archive with one sub-folder per class.")
    if out is not None:
        check_out(out)
    settings, record = _settings(), bundle.record
    own = {"folder": os.path.abspath(folder), "classes": classes or settings.data.classes}
    limits = settings.audit.model_copy(update={"min_side": record.min_side, "max_pixels": record.max_pixels})
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary)
        left_out = own_cells.fetch(settings.data.model_copy(update=own), raw).ignored
        found = audit.audit(raw, limits)
        audit.check(found, limits, folder)
        cells = patients.with_own(found)
        decoded = external.read(bundle, raw, cells)
    looks = Looks()
    rows = list(of_decoded(bundle, list(cells.path), decoded, looks=looks))
    known = bundle.known(cell.pixels for cell, _ in decoded)
    if out is not None:
        told = zip(rows, cells.label, cells.patient, strict=True)
        labelled = (_LabelledRow(**vars(row), label=label, patient=patient) for row, label, patient in told)
        with disk_in_words(out):
            save(labelled, out, _LabelledRow)
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
    came = splits.sides_of(cells)
    aside = found[found.status == tables.QUARANTINED]
    return scores | {
        "foreign": bundle.foreign(looks),
        "rejected": evaluation.rejections(cells),
        "set_aside": {"of": len(found), "images": len(aside), "reasons": audit.count_reasons(aside)},
        "left_out": list(left_out),
        "came_as": {} if came is None else {side: int((came == side).sum()) for side in tables.SPLIT_NAMES},
        "known": None if known is None else _without(judged, known[judged.index], fitted, settings),
    }


def as_text(scores: dict[str, Any]) -> str:
    """The result of `evaluate`, for a terminal."""
    turned, aside, came = scores["rejected"], scores["set_aside"], scores["came_as"]
    known = scores["known"] or {"cells": 0, "without": None}
    beside = known["cells"] and known["without"]
    lines = [FOREIGN] if scores["foreign"] else []
    lines += [evaluation.as_text(scores, {"all": scores, "without known cells": beside} if beside else {})]
    if known["cells"]:
        lines.append(
            f"{known['cells']:,} of {scores['cells']:,} cells are among those that the model learned from, "
            "or copies of them: no figure with them says how it does on new cells."
        )
    if turned["cells"]:
        lines += [
            f"{turned['cells']:,} of {turned['of']:,} images were turned away and count in no figure above "
            f"({turned['parasitized']:,} of them are labelled parasitised):",
            *_counted(turned["reasons"]),
        ]
    if aside["images"]:
        lines += [
            f"{aside['images']:,} of {aside['of']:,} images were set aside before that and were not judged:",
            *_counted(aside["reasons"]),
        ]
    if came:
        sides = ", ".join(f"{side} ({count:,})" for side, count in came.items())
        lines.append(f"The cells come in {sides}: all count.")
    return "\n".join([*lines, *(f"Left out: {what}." for what in scores["left_out"])])


def _settings() -> params.Params:
    """The current folder's params.yaml if it is one of this project, else the one in the package."""
    *here, last = [root / PARAMS for root in ROOTS if (root / PARAMS).is_file()]
    for file in here:
        with contextlib.suppress(UserError):
            return params.load_params(file)
    return params.load_params(last)


def _without(
    judged: pd.DataFrame, known: metrics.Bools, fitted: evaluation.Fitted, settings: params.Params
) -> dict[str, Any]:
    """How many of the `judged` cells are `known`, bool (n,), and the figures without these, for JSON."""
    rest = judged[~known]
    figures = None if rest.empty else evaluation.score(rest, fitted, settings.evaluate)
    return {"cells": int(known.sum()), "without": figures}


def _counted(reasons: dict[str, int]) -> list[str]:
    return [f"  {count:,}: {reason}" for reason, count in reasons.items()]
