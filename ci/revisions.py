"""A revision's parameters and results as plain files: of the work tree, of a commit, or made anew."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ci import commands
from ci.outputs import LOCK
from malaria import files, paths
from malaria.errors import UserError

# What is read of a revision, by the stage of dvc.lock that makes it.
RESULTS = {
    "audit": (paths.CELLS,),
    "split": (paths.SPLITS,),
    "train": (paths.TRAINING,),
    "evaluate": (paths.METRICS, paths.PREDICTIONS),
    "export": (paths.BUNDLE,),
}


@dataclass(frozen=True)
class Revision:
    """`name` as people say it; `commit` is empty for a work tree that no commit holds; below `folder` lie
    the files of `RESULTS`, params.yaml and dvc.lock, at their usual paths; `note` says what is special.
    """

    name: str
    commit: str
    folder: Path
    note: str = ""

    @property
    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock."""
        return stages_of((self.folder / LOCK).read_text(encoding="utf-8"))

    @property
    def lock_hash(self) -> str:
        return files.sha256(self.folder / LOCK)

    @property
    def params(self) -> dict[str, Any]:
        """params.yaml as it stands there, unchecked: another revision may have other keys."""
        content: dict[str, Any] = yaml.safe_load((self.folder / paths.PARAMS).read_text(encoding="utf-8"))
        return content


def stages_of(lock: str) -> dict[str, Any]:
    """The stages of a lock file's text; none where it is empty."""
    return dict((yaml.safe_load(lock) or {}).get("stages") or {})


def work_tree() -> Revision:
    """What lies in the current folder.

    Raises:
        UserError: its results are missing or not those of its parameters, data and code.
    """
    stale = yaml.safe_load(commands.dvc("status", "--json"))
    if stale:
        raise UserError(
            f"The work tree's results are not up to date (dvc status: {', '.join(stale)}): run `dvc repro`."
        )
    commit = commands.git("rev-parse", "HEAD")
    clean = not commands.git("status", "--porcelain", "--untracked-files=no")
    name = commands.git("rev-parse", "--abbrev-ref", "HEAD") if clean else "the work tree"
    return Revision(commit[:8] if name == "HEAD" else name, commit if clean else "", Path())


def resolve(rev: str) -> str:
    """The commit that `rev` names; UserError where git knows none."""
    try:
        return commands.git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
    except UserError:
        raise UserError(
            f"git knows no revision {rev}: name a branch, tag or commit (in a shallow clone, fetch it first)."
        ) from None


def fork_point(commit: str) -> str:
    """The commit where HEAD left the line of `commit`; `commit` itself where they have none in common."""
    try:
        return commands.git("merge-base", commit, "HEAD")
    except UserError:
        return commit


def has_model(commit: str) -> bool:
    """Whether the pipeline has been run to its end at a commit: its dvc.lock tells."""
    try:
        lock = commands.git("show", f"{commit}:{LOCK}")
    except UserError:
        return False
    return set(RESULTS) <= set(stages_of(lock))


def params_at(commit: str) -> dict[str, Any]:
    """params.yaml of a commit, unchecked; empty where it has none."""
    try:
        content = yaml.safe_load(commands.git("show", f"{commit}:{paths.PARAMS}"))
    except (UserError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def base(rev: str, rebuild: bool = False, sample: bool = False) -> Iterator[Revision | None]:
    """The revision to compare with, in a temporary folder; None where it has no model yet.

    Args:
        rebuild: run its pipeline again where its results are in neither cache nor remote; it takes as
            long as that.
        sample: run it again on the synthetic sample, whatever its params.yaml says.

    Raises:
        UserError: there is no such revision, or its results cannot be had.
    """
    commit = resolve(rev)
    if not has_model(commit):
        yield None
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "base")
        if sample:
            yield _rebuilt(rev, commit, folder, sample, "made anew on the synthetic sample")
            return
        try:
            wanted = (paths.PARAMS, LOCK, *(path for found in RESULTS.values() for path in found))
            _copy(commit, wanted, folder)
        except LookupError as missing:
            if not rebuild:
                raise UserError(
                    f"{missing} of {rev} is in neither DVC's cache nor its remote: `dvc fetch` it, or run "
                    "again with --rebuild, which takes as long as the pipeline."
                ) from None
            shutil.rmtree(folder, ignore_errors=True)
            note = "its results were in no remote, so they were made anew"
            yield _rebuilt(rev, commit, folder, sample, note)
            return
        yield Revision(rev, commit, folder)


def copy_of_work_tree(folder: Path) -> None:
    """Clone the repository into `folder` as it lies here, with what is not committed and the same cache."""
    commands.git("clone", "--quiet", "--shared", "--no-checkout", ".", str(folder))
    commands.git("checkout", "--quiet", "--detach", commands.git("rev-parse", "HEAD"), cwd=folder)
    changed = commands.git("diff", "--name-only", "-z", "HEAD")
    untracked = commands.git("ls-files", "-z", "--others", "--exclude-standard")
    for name in filter(None, [*changed.split("\0"), *untracked.split("\0")]):
        if not Path(name).is_file():
            (folder / name).unlink(missing_ok=True)
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(name, folder / name)
    share_cache(folder)


def share_cache(folder: Path) -> None:
    """Let the clone in `folder` use this repository's DVC cache."""
    cache = commands.dvc("cache", "dir").strip()
    commands.dvc("cache", "dir", "--local", str(Path(cache).resolve()), cwd=folder)


def copy_paths(rev: str, wanted: tuple[Path, ...], folder: Path) -> None:
    """Copy files and folders of a revision to below `folder`, out of git, DVC's cache or its remote.

    Raises:
        UserError: there is no such revision.
        LookupError: one of them is not to be had; it names it.
    """
    _copy(resolve(rev), wanted, folder)


def _copy(commit: str, wanted: tuple[Path, ...], folder: Path) -> None:
    """`copy_paths` of a commit; LookupError names what is not to be had."""
    from dvc.api import DVCFileSystem

    there = DVCFileSystem(".", rev=commit)
    for path in wanted:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            there.get(path.as_posix(), str(folder / path), recursive=there.isdir(path.as_posix()))
        except Exception:
            # DVC, its index and each kind of remote raise exceptions of their own for what is missing.
            raise LookupError(path) from None


def _rebuilt(rev: str, commit: str, folder: Path, sample: bool, note: str) -> Revision:
    """Run the pipeline of a commit in a clone, with this environment and this cache."""
    commands.git("clone", "--quiet", "--shared", "--no-checkout", ".", str(folder))
    commands.git("checkout", "--quiet", "--detach", commit, cwd=folder)
    share_cache(folder)
    if sample:
        use_sample(folder / paths.PARAMS)
    for line in commands.dvc_lines("repro", cwd=folder):
        print(f"[{rev}] {line}", flush=True)
    return Revision(rev, commit, folder, note)


def use_sample(file: Path) -> bool:
    """Set data.source to `sample` in a params.yaml; whether it was anything else before."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    in_data = False
    for number, line in enumerate(lines):
        if not line.startswith((" ", "#", "\n")):
            in_data = line.startswith("data:")
        key, _, rest = line.partition(":")
        if in_data and key == "  source":
            value, mark, comment = rest.partition("#")
            if value.strip() == "sample":
                return False
            lines[number] = f"  source: sample  {mark}{comment}".rstrip() + "\n"
            files.write_text(file, "".join(lines))
            return True
    raise UserError(f"{file} has no data.source: mend it.")
