"""Many cells at once: judged one after the other, and counted with the caution that counts need."""

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
class Judged:
    """One image of a batch as it is kept for the page: a thumbnail (data URI) instead of its pixels.

    `answers`: of each model, in their order; none where the file cannot be read, for `reason`, which
    else tells what to know of how it was read.
    """

    name: str
    thumbnail: str
    answers: tuple[Answer, ...]
    reason: str = ""


@dataclass(frozen=True)
class Totals:
    """Counts of a batch; `share` of the judged that were called parasitised, with a 95 % interval; from
    `least` to `most` of the cells were it, were all that the model turned away of one kind or the other.
    `foreign` as `Bundle.foreign` has it.
    """

    images: int
    judged: int
    parasitized: int
    second_look: int
    rejected: int
    unreadable: int
    share: float
    low: float
    high: float
    least: float
    most: float
    foreign: bool | None


@dataclass(frozen=True)
class Row(predict.Row):
    """A row of a table that tells by itself by what it came about: `network` is the SHA-256 of the model's
    network, `date` the day (UTC).
    """

    second_look: bool
    threshold: float
    operating_point: str
    model: str
    network: str
    date: str


@dataclass(frozen=True)
class Outcome:
    """What one model says of each image of a batch, at its own operating point."""

    model: Model
    point: verdict.Point
    rows: list[Row]
    totals: Totals


# Both have a status, a category and a second look.
Said = verdict.Verdict | Row

# Cells that wait for one call of the network.
_CHUNK = 32


def judge(models: Sequence[Model], batch: Iterable[uploads.Upload]) -> Iterator[Judged]:
    """The models' answers for each upload, in their order."""
    images = (_small(models, upload) for upload in batch)
    while waiting := list(itertools.islice(images, _CHUNK)):
        cells = [crops for _, crops in waiting if crops]
        asked = [model.judge.ask([crops[number] for crops in cells]) for number, model in enumerate(models)]
        answers = zip(*asked, strict=True)
        for one, crops in waiting:
            yield replace(one, answers=next(answers)) if crops else one


def _small(models: Sequence[Model], upload: uploads.Upload) -> tuple[Judged, list[Prepared]]:
    """An upload without answers, and its crop as each model takes it, where it can be read: a chunk of large
    pictures would take hundreds of megabytes.
    """
    try:
        crop = upload.read()
    except Unreadable as error:
        return Judged(upload.name, "", (), error.reason), []
    thumbnail = pictures.data_uri(crop.pixels, pictures.THUMBNAIL)
    crops = [model.bundle.prepare(crop.pixels) for model in models]
    return Judged(upload.name, thumbnail, (), "; ".join(crop.notes)), crops


def outcomes(models: Sequence[Model], batch: Sequence[Judged], point: verdict.Point) -> list[Outcome]:
    """What each model says of a batch; they are in the order in which they were asked."""
    return [_outcome(model, number, batch, model.at(point)) for number, model in enumerate(models)]


def _outcome(model: Model, number: int, batch: Sequence[Judged], point: verdict.Point) -> Outcome:
    answers = [one.answers[number] if one.answers else None for one in batch]
    looks = Looks()
    for answer in answers:
        if answer and answer.rejected is None and answer.look is not None:
            looks.add(answer.look[None])
    rows = []
    for answer, one in zip(answers, batch, strict=True):
        said = model.says(answer, point) if answer else verdict.unreadable(one.reason)
        rows.append(row(model, one.name, said, point, one.reason))
    return Outcome(model, point, rows, totals(rows, model.bundle.foreign(looks)))


def differ(verdicts: Sequence[Said]) -> bool:
    """Whether versions of the model call a cell differently."""
    return len({said.category for said in verdicts}) > 1


def worth_a_look(verdicts: Sequence[Said]) -> bool:
    """Whether a person should look at a cell, by what each version says of it."""
    return differ(verdicts) or any(one.second_look for one in verdicts)


def to_look_at(outcomes: Sequence[Outcome], batch: Sequence[Judged]) -> list[int]:
    """Numbers of the cells that are worth a look, those nearest to the threshold first."""
    said = zip(*(outcome.rows for outcome in outcomes), strict=True)
    found = [number for number, one in enumerate(said) if worth_a_look(one)]
    threshold = outcomes[0].point.threshold
    return sorted(found, key=lambda number: abs(batch[number].answers[0].p_parasitized - threshold))


def totals(verdicts: Sequence[Said], foreign: bool | None = None) -> Totals:
    """Count a batch."""
    judged = [one for one in verdicts if one.status == predict.PREDICTED]
    positive = sum(one.category == PARASITIZED for one in judged)
    rejected = sum(one.status == predict.REJECTED for one in verdicts)
    cells = len(judged) + rejected
    low, high = wilson(positive, len(judged))
    return Totals(
        images=len(verdicts),
        judged=len(judged),
        parasitized=positive,
        second_look=sum(one.second_look for one in judged),
        rejected=rejected,
        unreadable=len(verdicts) - cells,
        share=positive / len(judged) if judged else math.nan,
        low=low,
        high=high,
        least=positive / cells if cells else 0.0,
        most=(positive + rejected) / cells if cells else 1.0,
        foreign=foreign,
    )


def wilson(hits: int, cells: int) -> tuple[float, float]:
    """The 95 % interval of a share, as Wilson (1927) has it; (0, 1) without a cell.

    It takes cells for independent, which cells of one smear are not quite: the truth is wider.
    """
    if not cells:
        return 0.0, 1.0
    z = 1.959964
    share, room = hits / cells, z * z / cells
    half = z * math.sqrt(share * (1 - share) / cells + room / cells / 4)
    return max(0.0, (share + room / 2 - half) / (1 + room)), min(1.0, (share + room / 2 + half) / (1 + room))


def row(model: Model, name: str, said: verdict.Verdict, point: verdict.Point, notes: str = "") -> Row:
    """One image's verdict by a model at an operating point of its own; `notes` on how it was read."""
    return Row(
        path=name,
        p_parasitized=said.p,
        category=said.category,
        status=said.status,
        reason=said.reason or notes,
        second_look=said.second_look,
        threshold=point.threshold,
        operating_point=point.name,
        model=model.title,
        network=model.record.hashes["network"],
        date=datetime.now(UTC).date().isoformat(),
    )


def as_csv(rows: Iterable[Row]) -> str:
    """A table for spreadsheets, as `predict` writes it."""
    out = io.StringIO()
    predict.write(rows, out, Row)
    return out.getvalue()
