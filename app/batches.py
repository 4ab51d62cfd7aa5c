"""Judge many cells, count their categories with a 95 % interval, and write the rows as CSV."""

import io
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from malaria import predict
from malaria.bundle.ood import Looks
from malaria.cells.images import Unreadable
from malaria.cells.prepared import Prepared
from malaria.labels import PARASITIZED

from . import pictures, uploads, verdict
from .inference import Answer
from .model import Model


@dataclass(frozen=True)
class JudgedImage:
    """One image of a batch as the page keeps it: with a thumbnail (data URI) instead of its pixels.

    `answers`: one for each model, in their order; empty if the file cannot be read.
    `reason`: why it cannot be read, or else notes on how it was read.
    """

    name: str
    thumbnail: str
    answers: tuple[Answer, ...]
    reason: str = ""


@dataclass(frozen=True)
class Totals:
    """Counts of a batch, and the share of its judged cells that are called Parasitized.

    `share`: in [0, 1], None if no cell was judged; `low` to `high` is its 95 % interval. `least` and `most`:
    the share if all rejected pictures were uninfected cells, or all parasitised. `foreign`: as in
    `Bundle.foreign`.
    """

    images: int
    judged: int
    parasitized: int
    second_look: int
    rejected: int
    unreadable: int
    share: float | None
    low: float
    high: float
    least: float
    most: float
    foreign: bool | None


@dataclass(frozen=True)
class Row(predict.Row):
    """A row of the CSV table, which says by itself which model made it, when, and at which threshold.

    `network`: SHA-256 of the model's network. `date`: the day (UTC).
    """

    second_look: bool
    threshold: float
    operating_point: str
    model: str
    network: str
    date: str


@dataclass(frozen=True)
class Outcome:
    """One model's rows and totals for a batch, at the model's own operating point."""

    model: Model
    point: verdict.Point
    rows: list[Row]
    totals: Totals


# Images that are read before the network judges them together.
_CHUNK = 32


def judge(models: Sequence[Model], batch: Iterable[uploads.Upload]) -> Iterator[JudgedImage]:
    """Judge each upload with every model; results come in the order of the uploads."""
    images = (_prepare(models, upload) for upload in batch)
    while chunk := list(itertools.islice(images, _CHUNK)):
        cells = [crops for _, crops in chunk if crops]
        by_model = [model.judge.ask([crops[index] for crops in cells]) for index, model in enumerate(models)]
        answers = zip(*by_model, strict=True)
        for image, crops in chunk:
            yield replace(image, answers=next(answers)) if crops else image


def _prepare(models: Sequence[Model], upload: uploads.Upload) -> tuple[JudgedImage, list[Prepared]]:
    """An upload without answers, and its crop prepared for each model (no crop if it cannot be read).

    Prepared crops are small; a chunk of large pictures would take hundreds of megabytes.
    """
    try:
        crop = upload.read()
    except Unreadable as error:
        return JudgedImage(upload.name, "", (), error.reason), []
    thumbnail = pictures.data_uri(crop.pixels, pictures.THUMBNAIL)
    crops = [model.bundle.prepare(crop.pixels) for model in models]
    return JudgedImage(upload.name, thumbnail, (), "; ".join(crop.notes)), crops


def outcomes(models: Sequence[Model], batch: Sequence[JudgedImage], point: verdict.Point) -> list[Outcome]:
    """Each model's outcome for a batch; `models` in the same order as for `judge`."""
    return [_outcome(model, index, batch, model.at(point)) for index, model in enumerate(models)]


def _outcome(model: Model, index: int, batch: Sequence[JudgedImage], point: verdict.Point) -> Outcome:
    rows, looks = [], Looks()
    for image in batch:
        answer = image.answers[index] if image.answers else None
        if answer and answer.rejected is None and answer.look is not None:
            looks.add(answer.look[None])
        result = model.verdict_of(answer, point) if answer else verdict.unreadable(image.reason)
        rows.append(row(model, image.name, result, point, image.reason))
    return Outcome(model, point, rows, totals(rows, model.bundle.foreign(looks)))


def differ(rows: Sequence[Row]) -> bool:
    """Whether the models give a cell different categories; `rows`: one of each model."""
    return len({row.category for row in rows}) > 1


def worth_a_look(rows: Sequence[Row]) -> bool:
    """Whether a person should look at a cell: the models differ, or one asks for a second look."""
    return differ(rows) or any(row.second_look for row in rows)


def to_look_at(outcomes: Sequence[Outcome], batch: Sequence[JudgedImage]) -> list[int]:
    """Indices of the cells that are worth a look, those nearest to the threshold first."""
    by_image = zip(*(outcome.rows for outcome in outcomes), strict=True)
    indices = [index for index, rows in enumerate(by_image) if worth_a_look(rows)]
    threshold = outcomes[0].point.threshold
    return sorted(indices, key=lambda index: abs(batch[index].answers[0].p_parasitized - threshold))


def totals(rows: Sequence[Row], foreign: bool | None = None) -> Totals:
    """Count a batch; `foreign`: as in `Totals`."""
    judged = [row for row in rows if row.status == predict.PREDICTED]
    positive = sum(row.category == PARASITIZED for row in judged)
    rejected = sum(row.status == predict.REJECTED for row in rows)
    cells = len(judged) + rejected
    low, high = wilson(positive, len(judged))
    return Totals(
        images=len(rows),
        judged=len(judged),
        parasitized=positive,
        second_look=sum(row.second_look for row in judged),
        rejected=rejected,
        unreadable=len(rows) - cells,
        share=positive / len(judged) if judged else None,
        low=low,
        high=high,
        least=positive / cells if cells else 0.0,
        most=(positive + rejected) / cells if cells else 1.0,
        foreign=foreign,
    )


def wilson(hits: int, cells: int) -> tuple[float, float]:
    """Wilson's 95 % score interval (1927) of the share `hits` / `cells`; (0, 1) for no cells.

    It assumes independent cells. Cells of one smear are not quite independent: the true interval is wider.
    """
    if not cells:
        return 0.0, 1.0
    z = 1.959964
    share, shift = hits / cells, z * z / cells
    half = z * math.sqrt(share * (1 - share) / cells + shift / cells / 4)
    centre, scale = share + shift / 2, 1 + shift
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def row(model: Model, name: str, result: verdict.Verdict, point: verdict.Point, notes: str = "") -> Row:
    """The row of one image's verdict by `model`, at this model's `point`; `notes`: how it was read."""
    return Row(
        path=name,
        p_parasitized=result.p,
        category=result.category,
        status=result.status,
        reason=result.reason or notes,
        second_look=result.second_look,
        threshold=point.threshold,
        operating_point=point.name,
        model=model.title,
        network=model.record.hashes["network"],
        date=datetime.now(UTC).date().isoformat(),
    )


def as_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV, in the format of `malaria predict`."""
    out = io.StringIO()
    predict.write(rows, out, Row)
    return out.getvalue()
