"""Score a bundle on a folder of labelled cells, with the pipeline's own audit, metrics and intervals."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from malaria import params, predict, tables
from malaria.bundle import Bundle
from malaria.cells import audit, splits
from malaria.errors import UserError
from malaria.evaluate import calibration, evaluation
from malaria.fetch import archives, sources
from malaria.paths import PARAMS, ROOTS
from malaria.predict import stores
from malaria.predict.rows import shown


def evaluate(
    bundle: Bundle, folder: Path, classes: dict[str, str] | None = None, out: str | None = None
) -> dict[str, Any]:
    """`evaluation.score` on every accepted cell of `folder`, at the bundle's own operating points.

    Cells that the bundle turns away have no probability and count in no figure: `evaluation.rejections`
    stands under `rejected`. What the audit sets aside is counted under `set_aside`. Bootstrap, bins and
    least cells a patient come from params.yaml, as in the pipeline: the current folder's, else the one that
    comes along.

    Args:
        classes: label by name of a class folder, beside the labels' own names; data.classes where empty.
        out: a file or an object for a row of CSV for each cell that was not set aside.

    Raises:
        UserError: no folder or archive, no class folders, too many images set aside, a class without a
            readable cell, or all turned away.
    """
    if not folder.is_dir() and not archives.is_archive(folder):
        what = "no folder, zip or tar" if folder.exists() else "not there"
        raise UserError(f"{folder} is {what}: name a folder or archive with one sub-folder per class.")
    found_here = (root / PARAMS for root in ROOTS if (root / PARAMS).is_file())
    settings = params.load_params(next(found_here, PARAMS))
    data = settings.data.model_copy(
        update={"source": "folder", "folder": str(folder), "classes": classes or settings.data.classes}
    )
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary)
        sources.fetch(data, raw)
        limits = settings.audit.model_copy(
            update={"min_side": bundle.record.min_side, "max_pixels": bundle.record.max_pixels}
        )
        found = audit.audit(raw, limits)
        audit.check(found, limits, folder, "put the data right")
        cells = splits.with_patients(found)
        items = (_item(raw, path) for path in cells.path)
        rows = list(predict.predict(bundle, items, bits=audit.bits_in_use(found)))
    if any(row.status == predict.UNREADABLE for row in rows):
        raise UserError(f"{folder}: an image changed while it was read; run again.")
    if out is not None:
        _write(cells, rows, out)
    p = np.array([row.p_parasitized for row in rows], dtype=np.float64)
    temperature = bundle.record.temperature
    cells = cells.assign(
        # Calibration turned round, so that the figures before it are those of the network.
        p_network=calibration.apply(p, 1 / temperature),
        rejected=[row.reason if row.status == predict.REJECTED else "" for row in rows],
    )
    judged = cells[cells.rejected == ""]
    if judged.empty:
        raise UserError(
            f"{folder}: the model turns away all {len(cells):,} images ({rows[0].path}: {rows[0].reason}); "
            "give it crops of single stained red cells on black."
        )
    points = {point.specificity: point.threshold for point in bundle.record.operating_points}
    fitted = evaluation.Fitted(temperature, points)
    scores = evaluation.score(judged, fitted, settings.evaluate)
    return scores | {"rejected": evaluation.rejections(cells), "set_aside": _set_aside(found)}


def _write(cells: pd.DataFrame, rows: list[predict.Row], out: str) -> None:
    table = pd.DataFrame(rows).assign(label=cells.label.to_numpy(), patient=cells.patient.to_numpy())
    for column in ("path", "patient", "reason"):
        table[column] = table[column].map(shown)
    with stores.whole(out) as part:
        table.to_csv(part, index=False, float_format="%.6f", lineterminator="\n", errors="surrogateescape")


def as_text(scores: dict[str, Any]) -> str:
    """What `evaluate` found, for a terminal."""
    turned, aside = scores["rejected"], scores["set_aside"]
    lines = [evaluation.as_text(scores)]
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
    return "\n".join(lines)


def _counted(reasons: dict[str, int]) -> list[str]:
    return [f"  {count:,}: {reason}" for reason, count in reasons.items()]


def _set_aside(found: pd.DataFrame) -> dict[str, Any]:
    """How many images of an audit's rows were set aside, for JSON: in all, and by reason."""
    aside = found[found.status == tables.QUARANTINED]
    return {"of": len(found), "images": len(aside), "reasons": audit.count_reasons(aside)}


def _item(raw: Path, path: str) -> predict.Item:
    return predict.Item(path, (raw / path).read_bytes)
