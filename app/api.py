"""What programs may ask: one cell, many, and what the model is. Answers are plain JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from malaria import predict
from malaria.cells import images

from . import batches, uploads, verdict
from .gradio_import import gr
from .model import Model, info


def endpoints(models: Sequence[Model], folder: Path) -> dict[str, Callable[..., dict[str, Any]]]:
    """What Gradio's API answers, by name, of a model (and one compared with it); `folder` is where
    uploads lie. Gradio shows signatures and docstrings to whoever asks for its API.
    """
    model = models[0]

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
        return many_cells(models, own, point)

    def known() -> dict[str, Any]:
        """Version, data, operating points and test figures of the served model."""
        return model_info(models)

    return {"classify": classify, "classify_batch": classify_batch, "model_info": known}


def one_cell(models: Sequence[Model], pixels: images.Pixels, point: verdict.Point) -> dict[str, Any]:
    """The answer on one cell, the compared model's beside it."""
    first, *others = [as_json(model, pixels, point) for model in models]
    return first | {"compared": others[0]} if others else first


def model_info(models: Sequence[Model]) -> dict[str, Any]:
    """What is served, and what it is compared with."""
    first, *others = [info(model) for model in models]
    return first | {"compared": others[0]} if others else first


def many_cells(
    models: Sequence[Model], files: Sequence[tuple[str, Path]], point: verdict.Point
) -> dict[str, Any]:
    """The answer on many cells, in named files, the compared model's beside it."""
    judged = list(batches.judge(models, uploads.many(files, models[0].limits)))
    first, *others = [as_batch(model, number, judged, point) for number, model in enumerate(models)]
    return first | {"compared": others[0]} if others else first


def as_batch(
    model: Model, number: int, judged: Sequence[batches.Judged], point: verdict.Point
) -> dict[str, Any]:
    """The answer on many cells of one model, the `number`-th of those asked."""
    verdicts = batches.verdicts(model, number, judged, point)
    totals = asdict(batches.totals(verdicts))
    return {
        "rows": [as_row(row) for row in batches.rows(judged, verdicts)],
        "totals": totals if totals["judged"] else totals | {"share": None},
        "threshold": point.threshold,
        "model": model.title,
        "note": verdict.RESEARCH,
    }


def as_json(model: Model, pixels: images.Pixels, point: verdict.Point) -> dict[str, Any]:
    """One model's answer on one cell."""
    said = model.says(model.answer(pixels), point)
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
