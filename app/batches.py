"""Many cells at once: judged one after the other, and counted with the caution that counts need."""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from malaria import predict
from malaria.cells.prepared import Prepared
from malaria.labels import PARASITIZED

from . import pictures, uploads, verdict
from .inference import Answer
from .model import Model


@dataclass(frozen=True)
class Judged:
    """One image of a batch as it is kept for the page: a thumbnail (data URI) instead of its pixels.

    `answers`: of each model, in their order; none where the file cannot be read, for `reason`.
    """

    name: str
    thumbnail: str
    answers: tuple[Answer, ...]
    reason: str = ""


@dataclass(frozen=True)
class Totals:
    """Counts of a batch; `share` of the judged that were called parasitised, with a 95 % interval."""

    images: int
    judged: int
    parasitized: int
    second_look: int
    rejected: int
    unreadable: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class _Waiting:
    """One image of a batch before it is judged; `crops`: for each model, none where it cannot be read."""

    name: str
    thumbnail: str
    crops: tuple[Prepared, ...]
    reason: str


# Cells that wait for one call of the network.
_CHUNK = 32


def judge(models: Sequence[Model], batch: Iterable[uploads.Upload]) -> Iterator[Judged]:
    """The models' answers for each upload, in their order."""
    waiting: list[_Waiting] = []
    for upload in batch:
        waiting.append(_small(models, upload))
        if len(waiting) == _CHUNK:
            yield from _answered(models, waiting)
            waiting = []
    yield from _answered(models, waiting)


def _small(models: Sequence[Model], upload: uploads.Upload) -> _Waiting:
    """What is needed of an upload: a chunk of large pictures would take hundreds of megabytes."""
    if upload.pixels is None:
        return _Waiting(upload.name, "", (), upload.reason)
    thumbnail = pictures.data_uri(upload.pixels, pictures.THUMBNAIL)
    return _Waiting(upload.name, thumbnail, tuple(model.judge.crop(upload.pixels) for model in models), "")


def _answered(models: Sequence[Model], batch: Sequence[_Waiting]) -> Iterator[Judged]:
    cells = [one.crops for one in batch if one.crops]
    asked = [model.judge.ask([crops[number] for crops in cells]) for number, model in enumerate(models)]
    answers = zip(*asked, strict=True)
    for one in batch:
        yield Judged(one.name, one.thumbnail, next(answers) if one.crops else (), one.reason)


def verdicts(
    model: Model, number: int, batch: Sequence[Judged], point: verdict.Point
) -> list[verdict.Verdict]:
    """What a model, the `number`-th of those asked, says of each image of a batch."""
    return [
        model.says(one.answers[number], point) if one.answers else verdict.unreadable(one.reason)
        for one in batch
    ]


def totals(verdicts: Sequence[verdict.Verdict]) -> Totals:
    """Count a batch."""
    judged = [one for one in verdicts if one.status == predict.PREDICTED]
    positive = sum(one.category == PARASITIZED for one in judged)
    low, high = wilson(positive, len(judged))
    return Totals(
        images=len(verdicts),
        judged=len(judged),
        parasitized=positive,
        second_look=sum(one.second_look for one in judged),
        rejected=sum(one.status == predict.REJECTED for one in verdicts),
        unreadable=sum(one.status == predict.UNREADABLE for one in verdicts),
        share=positive / len(judged) if judged else math.nan,
        low=low,
        high=high,
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


def rows(judged: Sequence[Judged], verdicts: Sequence[verdict.Verdict]) -> list[predict.Row]:
    """The batch as `python -m malaria predict` has it."""
    return [
        predict.Row(one.name, said.p, said.category, said.status, said.reason)
        for one, said in zip(judged, verdicts, strict=True)
    ]


def as_text(cell: str) -> str:
    """A cell of a CSV that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def as_csv(judged: Sequence[Judged], verdicts: Sequence[verdict.Verdict]) -> str:
    """The table of `rows`, as `predict` writes it."""
    out = io.StringIO()
    predict.write(rows(judged, verdicts), out)
    return out.getvalue()
