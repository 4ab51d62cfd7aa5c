"""One DVC experiment in a clone of its own, so that several can run at once.

`dvc exp run --temp` keeps what waits to be run in one stash of the repository, and takes the first that it
finds there: of two at once, one may take the other's, or both the same. A clone has its own stash, locks and
workspace; the cache is shared, and with it DVC's run cache.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from malaria import bundle, files, programs, tables
from malaria.cells import packed
from malaria.cells.prepared import Prepared
from malaria.errors import UserError
from malaria.params import Params
from malaria.paths import BUNDLE, CROSSVAL, PREDICTIONS, SPLITS

Item = TypeVar("Item")
Result = TypeVar("Result")

_CLONES = Path(".dvc/tmp/folds")
# Parameters that name a file or folder.
_OF_PATHS = (
    *("data.folder", "split.file", "laboratories.folder", "external.folder", "train.start"),
    *("train.labels_file", "evaluate.doubtful_labels"),
)


def change(key: str, text: object) -> str:
    """KEY=VALUE that sets a parameter to a text, whatever signs it has, as `dvc exp run -S` reads it."""
    quoted = str(text).replace("'", r"\'")
    return f"{key}='{quoted}'"


def outside_git(settings: Params) -> list[str]:
    """KEY=VALUE for each path of the parameters that git does not wholly hold, made absolute.

    A fold runs in a clone: what lies outside of the repository, or in it and untracked, is not there.
    """
    here = Path.cwd().resolve()
    given = {key: Path(attrgetter(key)(settings)).resolve() for key in _OF_PATHS}
    return [
        change(key, path)
        for key, path in given.items()
        if not path.is_relative_to(here) or programs.git("ls-files", "--others", "--", str(path))
    ]


def read(name: str, path: Path) -> str:
    """A text file as experiment `name` left it; UserError where it is not to be had."""
    with _left_by(name, path) as there:
        text: str = there.read_text(path.as_posix(), encoding="utf-8")
    return text


def get(name: str, path: Path, target: Path) -> None:
    """Copy a file or folder as experiment `name` left it; UserError where it is not to be had."""
    with _left_by(name, path) as there:
        there.get(path.as_posix(), str(target), recursive=there.isdir(path.as_posix()))


def bundle_of(name: str, folder: Path) -> bundle.Bundle:
    """The bundle that experiment `name` exported, brought below `folder`, which `Bundle.known` still reads.

    Raises:
        UserError: it is not to be had.
    """
    get(name, BUNDLE, folder / name)
    return bundle.load(folder / name)


def predictions(name: str) -> pd.DataFrame:
    """What a cross-validation says of every cell, out of fold: tables.OUT_OF_FOLD."""
    file = CROSSVAL / f"{name}.csv"
    if not file.is_file():
        raise UserError(f"{file} is missing: run `make crossval` first, or name another with --name.")
    return tables.read(file, tables.OUT_OF_FOLD)


def side(name: str, split: str, cells: packed.Packed) -> tuple[pd.DataFrame, list[Prepared]]:
    """One side of an experiment's split: its rows of tables.SPLITS, and its cells as networks see them."""
    found = tables.read(SPLITS, tables.SPLITS, content=read(name, SPLITS))
    found = found[found.split == split]
    return found, cells.prepared(packed.rows_of(cells, found.path))


def tested(name: str, fold: int) -> pd.DataFrame:
    """What the network of a fold's experiment says of the cells that the fold tests: tables.OUT_OF_FOLD."""
    found = tables.read(PREDICTIONS, tables.PREDICTIONS, content=read(name, PREDICTIONS))
    return found[found.split == tables.TEST].assign(fold=fold)


@contextmanager
def _left_by(name: str, path: Path) -> Iterator[Any]:
    """The files of experiment `name`; UserError where `path`, which the block asks for, is not to be had."""
    from dvc.api import DVCFileSystem

    try:
        yield DVCFileSystem(rev=name)
    except Exception:
        # DVC, its index and each kind of remote raise exceptions of their own for what is missing.
        raise UserError(
            f"{path} of the experiment {name} is not to be had here: run `make crossval` first, or name "
            "another cross-validation with --name."
        ) from None


def run(name: str, sets: Sequence[str], *targets: str) -> str:
    """Run the workspace with changed parameters, as experiment `name` of this repository; returns the name.

    What Git knows comes along, with its uncommitted changes; an experiment of that name from before gives
    way once this one has ended.

    Args:
        sets: KEY=VALUE, as `dvc exp run -S` has it.
        targets: stages, with all that they need; else all stages.

    Raises:
        UserError: the experiment failed; the sentence has what DVC said.
    """
    changes = [part for change in sets for part in ("-S", change)]
    with _clone(name) as clone:
        programs.dvc("cache", "dir", "--local", programs.dvc("cache", "dir").strip(), cwd=clone)
        programs.dvc("exp", "run", "-n", name, *changes, *targets, cwd=clone)
        # The figures come with Git; what they were made of lies in the cache already.
        programs.dvc("--wait-for-lock", "exp", "pull", "--no-cache", "--force", str(clone.resolve()), name)
    return name


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with `function(item)`, as they end; so many at once, each of which waits for DVC's processes.

    TensorFlow takes as many threads in each as it takes alone, and so gives the same bytes.
    """
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(function, item): item for item in items}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _clone(name: str) -> Iterator[Path]:
    try:
        # Clones that killed runs left go first; one of these may still be at work in its own.
        with files.atomic_folder(_CLONES / name) as clone:
            programs.git("clone", "--quiet", "--shared", ".", str(clone))
            # Not `git stash create`: it locks the index, and of two experiments at once one would fail.
            changed = clone / ".git/changed"
            plain = ("--binary", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
            programs.git("diff", *plain, f"--output={changed.resolve()}", "HEAD")
            programs.git("apply", "--index", "--allow-empty", str(changed.resolve()), cwd=clone)
            for key in ("user.name", "user.email"):
                if value := programs.git("config", "--default", "", key):
                    programs.git("config", key, value, cwd=clone)
            if (local := Path(".dvc/config.local")).is_file():
                shutil.copy(local, clone / local)
            yield clone
    finally:
        shutil.rmtree(_CLONES / name, ignore_errors=True)
