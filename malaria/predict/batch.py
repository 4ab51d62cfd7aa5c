"""Predict any number of cells, in partitions that an engine's workers judge; a killed run can resume.

The inputs are cut into partitions in the order in which they are listed. A worker judges a partition and
returns its rows, which this process writes to a file beside the output. The file's name has the partition's
key (a hash of the bundle and of the inputs as they were listed) and a hash of its content: a killed run
resumes with the partitions that have no such file. The last step joins the files in order, which gives the
same bytes as a run without an engine.
"""

import hashlib
import json
import os
import platform
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from malaria import __version__, bundle, running
from malaria.bundle.ood import Looks
from malaria.errors import UserError
from malaria.predict import engine, inputs, rows, stores

# Images per partition: a multiple of those that `predict` decodes at once, so that the network sees the same
# batches.
SIZE = 1024

# Raise this when the content of a partition's file changes its meaning.
_FORMAT = 4


@dataclass(frozen=True)
class Partition:
    """The images of one task; `key` has its number, and a hash of the job and of the sources as listed."""

    key: str
    sources: tuple[inputs.Source, ...]


@dataclass(frozen=True)
class Job:
    """What all tasks share.

    `bundle`: the content of its files, by name. `base`: where relative paths start. `threshold`: as in
    `predict.predict`.
    """

    version: str
    bundle: dict[str, bytes]
    base: Path
    threshold: float


@dataclass(frozen=True)
class Result:
    """A partition's rows, how its judged cells look, and the process that judged them."""

    rows: tuple[rows.Row, ...]
    looks: Looks
    worker: str


@dataclass(frozen=True)
class Summary:
    """What a run did.

    `counts`: of the rows, as `predict.write` returns them. `partitions`: how many there are. `resumed`: how
    many of these an earlier run had finished.
    """

    counts: Counter[str]
    partitions: int
    resumed: int


def run(
    folder: Path,
    paths: Sequence[str],
    out: str,
    *,
    workers: int,
    scheduler: str | None = None,
    size: int = SIZE,
    threshold: float = 0.5,
    looks: Looks | None = None,
) -> Summary:
    """Judge all images of `paths` with the bundle in `folder`, and write their rows to `out`.

    Finished partitions lie in the folder `out`.malaria-parts until all are finished. A later run with the
    same inputs uses them.

    Args:
        out: a local file, or an object in a store.
        workers, scheduler: as in `engine.cluster`.
        size: images per partition.
        threshold, looks: as in `predict.predict`.

    Raises:
        UserError: as `engine.cluster` and `inputs.listed` raise it; `out` lies in a judged
            folder; a worker cannot read what this process can read.
    """
    for path in paths:
        if f"{_resolved(out)}/".startswith(f"{_resolved(path).rstrip('/')}/"):
            raise UserError(f"--out {out} lies in {path}, whose files are judged: name another place.")
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}
    job = Job(__version__, files, Path.cwd(), threshold)
    # The file of each partition, in the order of their rows.
    finished, resumed = dict[str, str](), 0
    with _parts_folder(out) as parts, tqdm(desc="predicting", unit=" images", disable=None) as bar:
        earlier = _earlier_files(parts)

        def unfinished() -> Iterator[Partition]:
            nonlocal resumed
            for partition in _partitions(inputs.listed(paths), size, job):
                finished[partition.key] = file = earlier.get(partition.key, "")
                # The hash in its name rules out a file that is incomplete or was changed.
                if file and file == _file_path(parts, partition, content := stores.read(file)):
                    resumed += 1
                    bar.update(len(json.loads(content)["rows"]))
                else:
                    yield partition

        with engine.cluster(workers, scheduler) as client:
            for partition, result in engine.map_unordered(client, judge, unfinished(), job):
                _check_readable(result)
                content = _to_bytes(result)
                finished[partition.key] = file = _file_path(parts, partition, content)
                with stores.as_user_error(file):
                    stores.filesystem(file).pipe_file(file, content)
                bar.update(len(result.rows))
        counts = rows.save(_read_rows(finished.values(), Looks() if looks is None else looks), out)
    return Summary(counts, len(finished), resumed)


def judge(partition: Partition, job: Job) -> Result:
    """Judge a partition; runs in a worker.

    Raises:
        UserError: the worker has another version of this project, or a store does not answer.
    """
    if job.version != __version__:
        raise UserError(f"A worker has version {__version__}, not {job.version}: install the same.")
    items = (item for source in partition.sources for item in inputs.items(source, job.base))
    remote = any(stores.is_remote(source.path) for source in partition.sources)
    looks = Looks()
    judged = rows.predict(_bundle_of(job), items, stores.READERS if remote else 1, job.threshold, looks)
    return Result(tuple(judged), looks, f"process {os.getpid()} on {platform.node()}")


def _to_bytes(result: Result) -> bytes:
    """A partition's file, as `_read_rows` reads it."""
    looks = {"total": result.looks.total.tolist(), "cells": result.looks.cells}
    return json.dumps({**looks, "rows": [astuple(row) for row in result.rows]}).encode()


def _read_rows(files: Iterable[str], looks: Looks) -> Iterator[rows.Row]:
    """The rows of all partitions, in order; adds to `looks` how the cells look."""
    for file in files:
        part = json.loads(stores.read(file))
        looks.total += part["total"]
        looks.cells += part["cells"]
        yield from (rows.Row(*row) for row in part["rows"])


def _check_readable(result: Result) -> None:
    """Raise UserError if the worker could not read a cell that this process can read.

    The worker may lack a mounted share, for example; the cell must not count as unreadable.
    """
    for row in result.rows:
        if row.reason.startswith(rows.NOT_READ) and inputs.can_be_read(row.path):
            raise UserError(
                f"The worker {result.worker} cannot read {row.path}, which can be read here: give it the "
                "same folders and credentials, or take it out of the cluster, and run again."
            )


def _partitions(sources: Iterable[inputs.Source], size: int, job: Job) -> Iterator[Partition]:
    """The sources in partitions of `size` images; the last may have fewer."""
    job_values = (_FORMAT, job.version, job.bundle[bundle.RECORD], job.threshold)
    for number, group in enumerate(_groups(sources, size)):
        digest = hashlib.sha256(repr((job_values, group)).encode()).hexdigest()
        yield Partition(f"{number:08}-{digest[:16]}", group)


def _groups(sources: Iterable[inputs.Source], size: int) -> Iterator[tuple[inputs.Source, ...]]:
    """The sources in groups of `size` images; a zip may be spread over several."""
    group, room = list[inputs.Source](), size
    for source in sources:
        remaining = source.images
        while remaining:
            group.append(replace(source, images=remaining[:room]))
            remaining, room = remaining[room:], room - len(group[-1].images)
            if not room:
                yield tuple(group)
                group, room = [], size
    if group:
        yield tuple(group)


@contextmanager
def _parts_folder(out: str) -> Iterator[str]:
    """A folder for this run's partition files, removed when the block ends without an error.

    A local folder is locked, so that no other run uses it.
    """
    folder = f"{_resolved(out)}.malaria-parts"
    lock = running.locked(Path(folder, "lock"), f"is at work in {folder}", patience=0)
    # Stores have no locks.
    with nullcontext() if stores.is_remote(folder) else lock:
        yield folder
        with stores.as_user_error(folder), suppress(FileNotFoundError):
            stores.filesystem(folder).rm(folder, recursive=True)


def _earlier_files(parts: str) -> dict[str, str]:
    """The files that earlier runs left, by key."""
    with stores.as_user_error(parts):
        names = [file.rpartition("/")[2] for file in stores.filesystem(parts).find(parts)]
    return {name.rpartition("-")[0]: f"{parts}/{name}" for name in names}


def _file_path(parts: str, partition: Partition, content: bytes) -> str:
    return f"{parts}/{partition.key}-{hashlib.sha256(content).hexdigest()[:16]}.json"


def _resolved(path: str) -> str:
    return path if stores.is_remote(path) else os.path.realpath(path)


_loaded = threading.local()


def _bundle_of(job: Job) -> bundle.Bundle:
    """The bundle, loaded once per thread of a worker, because threads cannot share it."""
    if getattr(_loaded, "job", None) != job:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in job.bundle.items():
                Path(folder, name).write_bytes(content)
            _loaded.model = bundle.load(folder, threads=1)
        _loaded.job = job
    model: bundle.Bundle = _loaded.model
    return model
