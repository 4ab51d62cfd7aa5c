"""Answers for programs, as JSON: on one cell, on many, and on the model; for Gradio's API and `plain`."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from malaria import RESEARCH
from malaria.cells import images

from . import batches, decoder, uploads, verdict
from .gradio_import import LocalContext, gr
from .model import Model, info


def endpoints(models: Sequence[Model], folder: Path) -> dict[str, Callable[..., dict[str, Any]]]:
    """Functions of Gradio's API, by name. Gradio shows users their signatures and docstrings.

    Args:
        models: the served model and, if there is one, the model that it is compared with.
        folder: the upload folder.
    """

    def classify(image: gr.FileData, threshold: float = 0.5) -> dict[str, Any]:
        """P(parasitised) and category of one cell. `threshold`: the lowest P that counts as Parasitized."""
        return one_cell(models, uploads.name_and_file(image, folder)[1], point_at(threshold), client_gone())

    def classify_batch(files: list[gr.FileData], threshold: float = 0.5) -> dict[str, Any]:
        """A row for each image of `files` (images and zips of them), as in `malaria predict`, and totals."""
        if not isinstance(files, list) or not files:
            raise HTTPException(422, "files must be a list of uploaded files.")
        named = [uploads.name_and_file(file, folder) for file in files]
        return many_cells(models, named, point_at(threshold), client_gone())

    def served_model() -> dict[str, Any]:
        """Version, data, operating points and test figures of the served model."""
        return model_info(models)

    return {"classify": classify, "classify_batch": classify_batch, "model_info": served_model}


@contextmanager
def in_gradio() -> Iterator[None]:
    """Turn refusals into gr.Error, which Gradio shows to the user."""
    try:
        yield
    except HTTPException as error:
        raise gr.Error(error.detail, print_exception=False) from None


def client_gone() -> Callable[[], bool]:
    """Make a function that says whether the client has left; call this in the function that Gradio runs."""
    blocks, number = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    event = blocks._queue.event_ids_to_events.get(number) if blocks and number else None
    # Gradio forgets an event that is cancelled.
    return lambda: event is not None and not (event.alive and number in blocks._queue.event_ids_to_events)


def point_at(threshold: object) -> verdict.Point:
    """The operating point at a threshold from a request; HTTPException if it is not a number in [0, 1]."""
    with suppress(OverflowError, TypeError, ValueError):
        value = float(threshold)  # type: ignore[arg-type]
        if 0 <= value <= 1:
            return verdict.Point(f"threshold {value:g}", value)
    raise HTTPException(422, "threshold must be a number from 0 to 1.")


def one_cell(
    models: Sequence[Model], source: Path | bytes, point: verdict.Point, gone: decoder.Gone = None
) -> dict[str, Any]:
    """The answer for one cell, with the compared model's under `compared`; `gone`: as in `decoder.start`.

    Raises:
        HTTPException: the source is not a readable image.
    """
    try:
        with decoder.start(models[0].bundle.limits, gone) as decode:
            crop = decode(source)
    except images.Unreadable as error:
        raise HTTPException(422, verdict.unreadable(error.reason).headline) from None
    return with_compared([as_json(model, crop, point) for model in models])


def many_cells(
    models: Sequence[Model], files: uploads.Files, point: verdict.Point, gone: decoder.Gone = None
) -> dict[str, Any]:
    """The answer for the cells in named files, with the compared model's under `compared`.

    Judging stops when the client is `gone`.
    """
    with decoder.start(models[0].bundle.limits, gone) as decode:
        judged = batches.judge(models, uploads.unpack(files, decode))
        batch = list(itertools.takewhile(lambda _: not (gone and gone()), judged))
    return with_compared([as_batch(outcome) for outcome in batches.outcomes(models, batch, point)])


def model_info(models: Sequence[Model]) -> dict[str, Any]:
    """Facts about the served model, with the compared model's under `compared`."""
    return with_compared([info(model) for model in models])


def with_compared(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge answers: the served model's, and under `compared` the other model's, if there is one."""
    answer, *compared = answers
    return answer | {"compared": compared[0]} if compared else answer


def as_batch(outcome: batches.Outcome) -> dict[str, Any]:
    """One model's answer for many cells."""
    return {
        "rows": [as_row(row) for row in outcome.rows],
        "totals": asdict(outcome.totals),
        "threshold": outcome.point.threshold,
        "model": outcome.model.title,
        "note": RESEARCH,
    }


def as_json(model: Model, crop: images.Crop, point: verdict.Point) -> dict[str, Any]:
    """One model's answer for one cell."""
    result = model.verdict_of(model.answer(crop.pixels), point)
    content = as_row(batches.row(model, "", result, model.at(point), "; ".join(crop.notes)))
    del content["file"]
    return {**content, "meaning": " ".join(result.sentences), "note": RESEARCH}


def as_row(row: batches.Row) -> dict[str, Any]:
    """A row for programs; `path` becomes `file`, because gradio_client tries to fetch any `path`."""
    content = asdict(row)
    return {"file": content.pop("path"), **content}
