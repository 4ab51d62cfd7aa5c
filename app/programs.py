"""What programs may ask: one cell, many, and what the model is. Answers are plain JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app import many, uploads, verdict
from app.lean import gr
from app.model import Model, info
from malaria import images, predict


@dataclass(frozen=True)
class Endpoints:
    """The functions behind `/classify`, `/classify_batch` and `/model_info`, with hints for Gradio."""

    classify: Callable[..., Any]
    classify_batch: Callable[..., Any]
    model_info: Callable[[], Any]


def endpoints(models: Sequence[Model], folder: Path) -> Endpoints:
    """The endpoints of a model (and one compared with it); `folder` is where uploads lie."""
    model = models[0]
    other = models[1] if len(models) > 1 else None

    def classify(image: gr.FileData, threshold: float = 0.5) -> dict[str, Any]:
        """P(parasitised) and category of one cell. `threshold`: the P from which it is Parasitized."""
        point = chosen(threshold)
        try:
            pixels = uploads.one(uploads.own(path_in(image), folder), model.limits)
        except images.Unreadable as error:
            raise gr.Error(verdict.unreadable(error.reason).headline, print_exception=False) from None
        return one_cell(models, pixels, point)

    def classify_batch(files: list[gr.FileData], threshold: float = 0.5) -> dict[str, Any]:
        """A row for each image of `files` (images and zips of them), as `predict` has it, and totals."""
        point = chosen(threshold)
        if not isinstance(files, list) or not files:
            raise gr.Error("files must be a list of uploaded files.", print_exception=False)
        try:
            own = [(name_in(file), uploads.own(path_in(file), folder)) for file in files]
        except images.Unreadable as error:
            raise gr.Error(verdict.unreadable(error.reason).headline, print_exception=False) from None
        judged = list(many.judge(model, other, uploads.many(own, model.limits)))
        verdicts = [many.verdict_on(one, point, model.record.synthetic) for one in judged]
        totals = asdict(many.totals(verdicts))
        return {
            "rows": [as_row(row) for row in many.rows(judged, verdicts)],
            "totals": totals if totals["judged"] else totals | {"share": None},
            "threshold": point.threshold,
            "note": verdict.RESEARCH,
        }

    def model_info() -> dict[str, Any]:
        """Version, data, operating points and test figures of the served model."""
        return info(model)

    return Endpoints(classify, classify_batch, model_info)


def one_cell(models: Sequence[Model], pixels: images.Pixels, point: verdict.Point) -> dict[str, Any]:
    """The answer on one cell, the compared model's beside it."""
    first, *others = [as_json(model, pixels, point) for model in models]
    return first | {"compared": others[0]} if others else first


def as_json(model: Model, pixels: images.Pixels, point: verdict.Point) -> dict[str, Any]:
    """One model's answer on one cell."""
    said = verdict.of(model.answer(pixels), point, model.record.synthetic)
    return {
        "status": said.status,
        "category": said.category,
        "p_parasitized": said.p,
        "threshold": point.threshold,
        "second_look": said.second_look,
        "meaning": " ".join(said.sentences),
        "reason": said.reason,
        "model": model.title,
        "note": verdict.RESEARCH,
    }


def as_row(row: predict.Row) -> dict[str, Any]:
    """A row for programs. Its path is called `file`: gradio_client would fetch whatever has a `path`."""
    content = asdict(row)
    return {"file": content.pop("path"), **content}


def chosen(threshold: object) -> verdict.Point:
    """An operating point at a threshold that a program named; gr.Error where it is no probability."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise gr.Error("threshold must be a number from 0 to 1.", print_exception=False)
    return verdict.Point(f"threshold {threshold:g}", float(threshold))


def path_in(file: object) -> object:
    """The path in what Gradio hands on for an uploaded file, whatever it may be."""
    return file.get("path") if isinstance(file, dict) else getattr(file, "path", None)


def name_in(file: object) -> str:
    """The name that a visitor gave to a file, without folders."""
    name = file.get("orig_name") if isinstance(file, dict) else None
    return Path(name if isinstance(name, str) and name else str(path_in(file))).name
