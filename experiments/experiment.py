"""Run DVC experiments, each in its own clone, so that several can run at once; read their results.

`dvc exp run --temp` queues experiments in one stash of the repository, and takes the first entry that it
finds. Two commands at once may take each other's entry, or both the same. A clone has its own stash, locks
and workspace; it shares DVC's cache, and with it the run cache.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from malaria import bundle, files, params, paths, programs, tables
from malaria.cells import packed
from malaria.cells.prepared import Prepared
from malaria.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_CLONES = Path(".dvc/tmp/folds")
# Parameters that name a file or folder.
_PATH_PARAMETERS = (
    *("data.folder", "split.file", "laboratories.folder", "external.folder", "train.start"),
    *("train.labels_file", "evaluate.doubtful_labels"),
)


def run(name: str, changes: Sequence[str], *targets: str) -> str:
    """Run the workspace with changed parameters, as experiment `name` of this repository; returns the name.

    It has the files that git tracks, with their uncommitted changes. An earlier experiment of that name is
    replaced when this one has ended.

    Args:
        changes: KEY=VALUE, as `dvc exp run -S` takes it.
        targets: stages to run, with those that they need; without any, all stages.

    Raises:
        UserError: the experiment failed; the message has what DVC said.
    """
    options = [part for change in changes for part in ("-S", change)]
    with _clone(name) as clone:
        programs.use_dvc_cache(programs.dvc_cache(), clone)
        programs.dvc("exp", "run", "-n", name, *options, *targets, cwd=clone)
        # Git brings the figures; the other results are in the shared cache already.
        programs.dvc("--wait-for-lock", "exp", "pull", "--no-cache", "--force", str(clone.resolve()), name)
    return name


@contextmanager
def _clone(name: str) -> Iterator[Path]:
    try:
        # atomic_folder removes clones that killed runs left, but none whose process is still running.
        with files.atomic_folder(_CLONES / name) as clone:
            programs.git("clone", "--quiet", "--shared", ".", str(clone))
            # Not `git stash create`: it locks the index, so that one of two experiments at once would fail.
            patch = clone / ".git/changed"
            options = ["--binary", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/"]
            programs.git("diff", *options, f"--output={patch.resolve()}", "HEAD")
            # The user's own setting for whitespace could change the patch, or refuse it.
            options = ["--index", "--allow-empty", "--whitespace=nowarn"]
            programs.git("apply", *options, str(patch.resolve()), cwd=clone)
            for key in ("user.name", "user.email"):
                if value := programs.git("config", "--default", "", key):
                    programs.git("config", key, value, cwd=clone)
            if (local_config := Path(".dvc/config.local")).is_file():
                shutil.copy(local_config, clone / local_config)
            yield clone
    finally:
        shutil.rmtree(_CLONES / name, ignore_errors=True)


def parallel(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with `function(item)` as soon as it ends, `workers` at a time.

    Threads are enough, because each function waits for DVC's processes. TensorFlow uses as many threads in
    each of them as it does alone, and so gives the same bytes.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(function, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def change(key: str, text: object) -> str:
    """KEY=VALUE that sets a parameter to a text with any characters, as `dvc exp run -S` takes it."""
    quoted = str(text).replace("'", r"\'")
    return f"{key}='{quoted}'"


def outside_git(settings: params.Params) -> list[str]:
    """KEY=VALUE with an absolute path, for each parameter whose file or folder git does not wholly track.

    An experiment runs in a clone, which has no files from outside of the repository and no untracked ones.
    """
    root = Path.cwd().resolve()
    absolute = {key: Path(attrgetter(key)(settings)).resolve() for key in _PATH_PARAMETERS}
    return [
        change(key, path)
        for key, path in absolute.items()
        if not path.is_relative_to(root) or programs.git("ls-files", "--others", "--", str(path))
    ]


def read(name: str, path: Path) -> str:
    """The content of a text file of experiment `name`; UserError if it is not available."""
    with _file_system(name, path) as file_system:
        return str(file_system.read_text(path.as_posix(), encoding="utf-8"))


def get(name: str, path: Path, target: Path) -> None:
    """Copy a file or folder of experiment `name` to `target`; UserError if it is not available."""
    with _file_system(name, path) as file_system:
        file_system.get(path.as_posix(), str(target), recursive=file_system.isdir(path.as_posix()))


@contextmanager
def copy_of(name: str, path: Path) -> Iterator[Path]:
    """A temporary copy of a file or folder of experiment `name`; UserError if it is not available."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, path.name)
        get(name, path, copy)
        yield copy


def bundle_of(name: str) -> bundle.Bundle:
    """Load the bundle of experiment `name`; UserError if it is not available."""
    with tempfile.TemporaryDirectory() as temporary:
        # Errors about the bundle name the folder, and so the experiment.
        folder = Path(temporary, name)
        get(name, paths.BUNDLE, folder)
        return bundle.load(folder)


def predictions(name: str) -> pd.DataFrame:
    """Out-of-fold predictions of a cross-validation: rows of tables.OUT_OF_FOLD; UserError without any."""
    file = paths.CROSSVAL / f"{name}.csv"
    if not file.is_file():
        raise UserError(f"{file} is missing: run `make crossval` first, or name another with --name.")
    return tables.read(file, tables.OUT_OF_FOLD)


def revisions(name: str) -> dict[int, str]:
    """The experiments of a cross-validation, by the number of the fold."""
    return {number: f"{name}-{number}" for number in sorted(predictions(name).fold.unique())}


def side(name: str, split: str, cells: packed.Packed) -> tuple[pd.DataFrame, list[Prepared]]:
    """One side of an experiment's split: its rows of tables.SPLITS, and its cells as networks see them."""
    rows = tables.read(paths.SPLITS, tables.SPLITS, content=read(name, paths.SPLITS))
    rows = rows[rows.split == split]
    return rows, cells.prepared(packed.rows_of(cells, rows.path))


def fold_predictions(name: str, fold: int) -> pd.DataFrame:
    """Predictions of the network of a fold's experiment for its test cells: rows of tables.OUT_OF_FOLD."""
    rows = tables.read(paths.PREDICTIONS, tables.PREDICTIONS, content=read(name, paths.PREDICTIONS))
    return rows[rows.split == tables.TEST].assign(fold=fold)


@contextmanager
def _file_system(name: str, path: Path) -> Iterator[Any]:
    """The file system of experiment `name`; UserError if the block cannot read `path` there."""
    from dvc.api import DVCFileSystem

    try:
        yield DVCFileSystem(rev=name)
    except Exception:
        # DVC, its index and each kind of remote raise exceptions of their own for what is missing.
        raise UserError(
            f"{path} of the experiment {name} is not to be had here: run `make crossval` first, or name "
            "another cross-validation with --name."
        ) from None
