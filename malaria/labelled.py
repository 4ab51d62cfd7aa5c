"""Score a bundle on a folder of labelled cells, with the pipeline's own audit, metrics and intervals."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from malaria import audit, evaluation, params, predict, sources, splits
from malaria.bundle import Bundle
from malaria.errors import UserError


def evaluate(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """`evaluation.score` on every accepted cell of `folder`, at the bundle's own operating points.

    Cells that the bundle turns away have no probability and count in no figure: `evaluation.rejections`
    stands under `rejected`. Bootstrap, bins and least cells a patient come from params.yaml, as in the
    pipeline.

    Raises:
        UserError: no class folders, too many images set aside, no readable cell, or all turned away.
    """
    settings = params.load_params()
    data = settings.data.model_copy(update={"source": "folder", "folder": str(folder)})
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary)
        sources.fetch(data, raw)
        limits = settings.audit.model_copy(
            update={"min_side": bundle.record.min_side, "max_pixels": bundle.record.max_pixels}
        )
        cells = splits.with_patients(audit.audit(raw, limits))
        rows = list(predict.predict(bundle, (_item(raw, path) for path in cells.path)))
    if any(row.status == predict.UNREADABLE for row in rows):
        raise UserError(f"{folder}: an image changed while it was read; run again.")
    cells = cells.assign(
        p_network=np.array([row.p_parasitized for row in rows], dtype=np.float64),
        rejected=[row.reason for row in rows],
    )
    judged = cells[cells.rejected == ""]
    if judged.empty:
        raise UserError(
            f"{folder}: the model turns away all {len(cells):,} images ({rows[0].path}: {rows[0].reason}); "
            "give it crops of single stained red cells on black."
        )
    fitted = evaluation.Fitted(
        1.0, {point.specificity: point.threshold for point in bundle.record.operating_points}
    )
    # The bundle's probabilities are calibrated already: its temperature is not applied twice.
    scores = evaluation.score(judged, fitted, settings.evaluate)
    return scores | {"rejected": evaluation.rejections(cells)}


def as_text(scores: dict[str, Any]) -> str:
    """What `evaluate` found, for a terminal."""
    turned = scores["rejected"]
    if not turned["cells"]:
        return evaluation.as_text(scores)
    return "\n".join(
        [
            evaluation.as_text(scores),
            f"{turned['cells']:,} of {turned['of']:,} images were turned away and count in no figure above "
            f"({turned['parasitized']:,} of them are labelled parasitised):",
            *(f"  {count:,}: {reason}" for reason, count in turned["reasons"].items()),
        ]
    )


def _item(raw: Path, path: str) -> predict.Item:
    return predict.Item(path, (raw / path).read_bytes)
