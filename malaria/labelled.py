"""Score a bundle on a folder of labelled cells, with the pipeline's own audit, metrics and intervals."""

import tempfile
from pathlib import Path
from typing import Any

from malaria import audit, evaluation, params, predict, sources, splits
from malaria.bundle import Bundle
from malaria.errors import UserError

as_text = evaluation.as_text


def evaluate(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """`evaluation.score` on every accepted cell of `folder`, at the bundle's own operating points.

    Bootstrap, bins and least cells a patient come from params.yaml, as in the pipeline.

    Raises:
        UserError: no class folders, too many images set aside, no readable cell.
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
    p = [row.p_parasitized for row in rows if row.p_parasitized is not None]
    if len(p) < len(rows):
        raise UserError(f"{folder}: an image changed while it was read; run again.")
    fitted = evaluation.Fitted(
        1.0, {point.specificity: point.threshold for point in bundle.record.operating_points}
    )
    # The bundle's probabilities are calibrated already: its temperature is not applied twice.
    return evaluation.score(cells.assign(p_network=p), fitted, settings.evaluate)


def _item(raw: Path, path: str) -> predict.Item:
    return predict.Item(path, (raw / path).read_bytes)
