"""Predictions for any number of cells, shard by shard on an engine's workers; resumable.

A plan is written first: the inputs in the order of their rows, cut into shards. A shard's rows come back
from whichever worker judged it last, and are kept as a file of their own, written whole or not at all.
Its name has the shard's key (a hash of the model bundle and of the inputs as they were listed), a hash of
its content, and its rows: a run that was killed goes on with the shards that have no such file. The last
step joins them in order, which gives the bytes that the rows have without an engine.
"""

import hashlib
import io
import itertools
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from malaria import __version__, bundle, files, predict, running
from malaria.command import without_native_logs
from malaria.errors import UserError
from malaria.predict import engine, inputs, stores

PLAN, _LOCK = "plan.jsonl", "lock"

# A multiple of the images that `predict` decodes at once: the network then sees the same batches.
SHARD = 1024

# Raised with every change to what a shard's file means.
_FORMAT = 1

_HASH = 16  # hex digits; of the few files of a run
_PART = re.compile(rf"(\d{{8}})-([0-9a-f]{{{_HASH}}})-([0-9a-f]{{{_HASH}}})-(\d+)\.csv")

# What a killed run leaves of a file that it was writing.
_HALF = re.compile(r"\..+\.\d+\.part\.(csv|jsonl)")


@dataclass(frozen=True)
class Piece:
    """A file or an object, or of a zip the entries from `first` to before `last`."""

    source: inputs.Source
    first: int
    last: int


@dataclass(frozen=True)
class Shard:
    """What one task judges; `key` is that of the bundle and of the pieces as they were listed."""

    number: int
    key: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Job:
    """What all tasks share. bundle: the content of its files by their names; base: where relative paths
    start; roots: local paths that a worker elsewhere must see; threads: that a task may use.
    """

    version: str
    bundle: dict[str, bytes]
    base: Path
    roots: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class Judged:
    """A shard's rows as CSV, without a header."""

    csv: bytes
    rows: int


@dataclass(frozen=True)
class Done:
    """Rows written, shards in all, and how many of these an earlier run had finished."""

    rows: int
    shards: int
    resumed: int


def run(
    folder: Path,
    paths: Sequence[str],
    out: Path,
    *,
    workers: int,
    scheduler: str | None = None,
    size: int = SHARD,
) -> Done:
    """Judge all images of `paths` with the bundle in `folder`, and write their rows to `out`.

    What is finished lies in `out`.parts until all is, and is taken over by a run of the same inputs.

    Args:
        workers, scheduler: as `engine.cluster` takes them.
        size: images a shard.

    Raises:
        UserError: as `engine.cluster`, `inputs.listed` and `bundle.load` raise it.
    """
    if size < 1:
        raise UserError(f"--shard is {size}, but must be at least 1.")
    record = bundle.load(folder).folder / bundle.RECORD
    for path in paths:
        if not inputs.is_remote(path) and out.resolve().is_relative_to(Path(path).resolve()):
            raise UserError(f"--out {out} lies in {path}, whose files are judged: name another place.")
    parts = out.with_name(f"{out.name}.parts")
    with running.locked(parts / _LOCK, f"is at work in {parts}", patience=0):
        _write_plan(parts, paths, size)
        same = f"{_FORMAT} {__version__} {files.sha256(record)}"
        finished = _finished(parts, same)
        resumed = sum(part is not None for part in finished)
        if resumed < len(finished):
            rest = (shard for shard in _shards(parts, same) if finished[shard.number] is None)
            with engine.cluster(workers, scheduler) as cluster:
                job = _job(folder, paths, cluster, elsewhere=scheduler is not None)
                results = cluster.as_they_come(judge, rest, job)
                bar = tqdm(
                    results, "predicting", len(finished), unit=" shards", initial=resumed, disable=None
                )
                for shard, judged in bar:
                    finished[shard.number] = _keep(parts, shard, judged)
        names = [name for name in finished if name is not None]
        with files.atomic_path(out) as part, part.open("wb") as joined:
            _join(parts, names, joined)
        _clear(parts)
    return Done(sum(_rows(name) for name in names), len(names), resumed)


def judge(shard: Shard, job: Job) -> Judged:
    """Judge a shard; runs in a worker.

    Raises:
        UserError: the worker is another version of this project, does not see the inputs, or a store
            does not answer.
    """
    if job.version != __version__:
        raise UserError(
            f"A worker has version {__version__} of this project, but {job.version} asks: install the same."
        )
    for root in job.roots:
        if not (job.base / root).exists():
            raise UserError(f"A worker does not see {root}: use a folder that all share, or an S3 store.")
    model = _model(job)
    items = itertools.chain.from_iterable(
        inputs.items(piece.source, piece.first, piece.last, job.base) for piece in shard.pieces
    )
    remote = any(inputs.is_remote(piece.source.path) for piece in shard.pieces)
    rows = list(predict.predict(model, items, stores.READERS if remote else job.threads))
    return Judged(_as_csv(rows, header=False), len(rows))


def _job(folder: Path, paths: Sequence[str], cluster: engine.Cluster, *, elsewhere: bool) -> Job:
    needed = (bundle.NETWORK, bundle.RECORD, *bundle.PARTS.values())
    content = {name: (folder / name).read_bytes() for name in needed if (folder / name).is_file()}
    roots = tuple(path for path in paths if elsewhere and not inputs.is_remote(path))
    return Job(__version__, content, Path.cwd(), roots, cluster.threads)


def _keep(parts: Path, shard: Shard, judged: Judged) -> str:
    digest = hashlib.sha256(judged.csv).hexdigest()[:_HASH]
    name = f"{shard.number:08}-{shard.key}-{digest}-{judged.rows}.csv"
    with files.atomic_path(parts / name) as part:
        part.write_bytes(judged.csv)
    return name


def _finished(parts: Path, same: str) -> list[str | None]:
    """For each shard of the plan the name of its file, None where there is none or it was changed."""
    found = filter(None, (_PART.fullmatch(path.name) for path in parts.iterdir()))
    kept = {(int(part[1]), part[2]): part for part in found}
    names: list[str | None] = []
    for shard in _shards(parts, same):
        part = kept.get((shard.number, shard.key))
        whole = part is not None and files.sha256(parts / part[0])[:_HASH] == part[3]
        names.append(part[0] if part is not None and whole else None)
    return names


def _rows(name: str) -> int:
    part = _PART.fullmatch(name)
    assert part is not None
    return int(part[4])


def _write_plan(parts: Path, paths: Sequence[str], size: int) -> None:
    """A line a piece: its shard's number, and all that is known of it, as JSON."""
    with files.atomic_path(parts / PLAN) as part, part.open("w", encoding="utf-8") as plan:
        for number, piece in _cut(inputs.listed(paths), size):
            plan.write(json.dumps([number, *astuple(piece.source), piece.first, piece.last]) + "\n")


def _cut(sources: Iterable[inputs.Source], size: int) -> Iterator[tuple[int, Piece]]:
    """Each piece with the number of its shard, which holds `size` images or entries of zips."""
    number, room = 0, size
    for source in sources:
        # A zip without entries has no rows, and a damaged one has one.
        first, end = 0, 1 if source.entries is None else source.entries
        while first < end:
            if not room:
                number, room = number + 1, size
            last = min(end, first + room)
            yield number, Piece(source, first, last)
            room -= last - first
            first = last


def _shards(parts: Path, same: str) -> Iterator[Shard]:
    """The shards of the plan, read anew each time: it may be longer than memory likes."""
    with (parts / PLAN).open(encoding="utf-8") as plan:
        for number, group in itertools.groupby(plan, key=lambda line: int(line[1 : line.index(",")])):
            lines = list(group)
            key = hashlib.sha256("\n".join((same, *lines)).encode()).hexdigest()[:_HASH]
            yield Shard(number, key, tuple(_piece(*json.loads(line)[1:]) for line in lines))


def _piece(path: str, size: int, mark: str, entries: int | None, first: int, last: int) -> Piece:
    return Piece(inputs.Source(path, size, mark, entries), first, last)


def _join(parts: Path, names: Sequence[str], joined: BinaryIO) -> None:
    joined.write(_as_csv(()))
    for name in names:
        with (parts / name).open("rb") as part:
            shutil.copyfileobj(part, joined)


def _as_csv(rows: Iterable[predict.Row], *, header: bool = True) -> bytes:
    out = io.StringIO()
    predict.write(rows, out, header=header)
    return out.getvalue().encode("utf-8", "surrogateescape")


def _clear(parts: Path) -> None:
    """Remove what this module wrote, of any run; the folder stays where it holds anything else."""
    for path in parts.iterdir():
        ours = path.name in (PLAN, _LOCK) or _PART.fullmatch(path.name) or _HALF.fullmatch(path.name)
        if ours:
            path.unlink(missing_ok=True)
    if not any(parts.iterdir()):
        os.rmdir(parts)


_loaded = threading.local()


def _model(job: Job) -> bundle.Bundle:
    """The bundle, loaded once by each thread of a worker: it is not for several at once."""
    key = hashlib.sha256(job.bundle[bundle.RECORD]).hexdigest()
    if getattr(_loaded, "key", None) != key:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in job.bundle.items():
                Path(folder, name).write_bytes(content)
            with without_native_logs():
                _loaded.model = bundle.load(folder, job.threads)
        _loaded.key = key
    model: bundle.Bundle = _loaded.model
    return model
