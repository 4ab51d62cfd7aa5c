"""Revisions with parameters and results as plain files: the work tree, a copy of it, or a commit's clone."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro
from dvc.stage import PipelineStage
from dvc.utils.fs import remove
from dvc.utils.serialize import modify_yaml

from ci.outputs import LOCK
from malaria import paths, programs
from malaria.errors import UserError
from remote import pull, storage

_PIPELINE = Path("dvc.yaml")

# DVC trusts the names of its files, and the gate the records in reports/ci: git must hold none of them.
_RESERVED = (".dvc/cache", ".dvc/remote", ".dvc/tmp", "reports/ci")


@dataclass(frozen=True)
class Revision:
    """A checkout with its results, in `folder`.

    name: for people. commit: empty for a work tree with uncommitted changes. note: what is special about the
    results.
    """

    name: str
    commit: str
    folder: Path
    note: str = ""

    @cached_property
    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock."""
        return lock_of(self.folder)

    @cached_property
    def params(self) -> dict[str, Any]:
        """params.yaml as it stands there, unchecked: another revision may have other keys."""
        content: dict[str, Any] = yaml.safe_load((self.folder / paths.PARAMS).read_text(encoding="utf-8"))
        return content


def stages_of(text: str, file: Path = LOCK) -> dict[str, Any]:
    """The stages in a lock file's text, by name; each has `deps` and `outs`, which may be empty.

    Raises:
        UserError: the text has another form; the error names `file`.
    """
    try:
        stages = (yaml.safe_load(text) or {}).get("stages") or {}
        return {name: {"deps": [], "outs": [], **entry} for name, entry in stages.items()}
    except (yaml.YAMLError, AttributeError, TypeError):
        raise UserError(f"{file} cannot be read: does it hold a merge conflict (docs/everyday.md)?") from None


def work_tree(folder: Path = Path()) -> Revision:
    """The revision that a folder holds.

    Raises:
        UserError: its results are missing or not those of its parameters, data and code.
    """
    check_up_to_date(folder)
    commit = programs.git("rev-parse", "HEAD", cwd=folder)
    clean = not programs.git("status", "--porcelain", "--untracked-files=no", cwd=folder)
    name = programs.git("rev-parse", "--abbrev-ref", "HEAD", cwd=folder) if clean else "the work tree"
    return Revision(commit[:8] if name == "HEAD" else name, commit if clean else "", folder)


def check_up_to_date(folder: Path = Path()) -> None:
    """Raise UserError unless a folder's results are those of its parameters, data and code.

    Also raise it if git holds files where DVC keeps results or the gate keeps its records.
    """
    # Also behind a link that git tracks.
    targets = [(folder / name).resolve() for name in (*_RESERVED, programs.dvc_cache(folder))]
    inside = [str(path) for path in targets if path.is_relative_to(folder.resolve())]
    if tracked := programs.git("ls-files", "--", *_RESERVED, *inside, cwd=folder).splitlines():
        raise UserError(f"git holds {tracked[0]}, where results and their records are kept: `git rm` it.")
    if stale := yaml.safe_load(programs.dvc("status", "--json", cwd=folder)):
        raise UserError(
            f"dvc.lock is not up to date (dvc status: {', '.join(stale)}): run `dvc repro` (or `dvc pull`, "
            "where results are only missing here), and commit what changed."
        )


def resolve(rev: str) -> str:
    """The commit that `rev` names; UserError if git knows none."""
    # A branch first: git prefers a tag of the same name, which a fetch may bring.
    for name in (f"refs/heads/{rev}", rev):
        with suppress(UserError):
            return programs.git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    raise UserError(
        f"git knows no revision {rev}: name a branch, tag or commit (in a shallow clone, fetch it first)."
    )


def fork_point(commit: str, folder: Path) -> str:
    """The last common ancestor of a folder's HEAD and `commit`; `commit` itself if they have none."""
    try:
        return programs.git("merge-base", commit, "HEAD", cwd=folder)
    except UserError:
        return commit


def params_at(commit: str, folder: Path) -> dict[str, Any]:
    """params.yaml of a commit, unchecked; empty if it has none."""
    try:
        content = yaml.safe_load(_text_at(commit, paths.PARAMS, folder))
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def _text_at(commit: str, file: Path, folder: Path = Path()) -> str:
    """The text of a file of a commit; empty if it has no such file."""
    try:
        return programs.git("show", f"{commit}:{file.as_posix()}", cwd=folder)
    except UserError:
        return ""


@contextmanager
def base(rev: str, sample: bool = False) -> Iterator[Revision | None]:
    """The revision to compare with, in a clean folder with its results; None if it has no model yet.

    Results that are in neither cache nor remote are made again, which takes as long as the pipeline.

    Args:
        sample: make it on the synthetic sample, whatever its params.yaml says.

    Raises:
        UserError: there is no such revision, or its results cannot be made.
    """
    commit = resolve(rev)
    # The last stage that makes the model: without it in dvc.lock, the pipeline has not been run to its end.
    if "export" not in stages_of(_text_at(commit, LOCK)):
        yield None
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "base")
        _clone(Path(), commit, folder)
        _drop_damaged(folder)
        programs.dvc("checkout", "--quiet", "--force", "--allow-missing", cwd=folder)
        if _missing(folder) and not sample:
            pull.fetch(commit)
            _drop_damaged(folder)
        note = "made on the synthetic sample" if sample and use_sample(folder / paths.PARAMS) else ""
        if missing := drop_missing(folder):
            note = f"{', '.join(missing)} were in no store, and made anew"
            print(f"Results of {rev}: {note}. This takes as long as these stages.", flush=True)
        if note:
            for line in programs.lines([*programs.DVC, "repro"], cwd=folder):
                print(f"[{rev}] {line}", flush=True)
        yield Revision(rev, commit, folder, note)


def copy_of_work_tree(source: Path, folder: Path) -> None:
    """Clone the work tree `source` into `folder`, with its uncommitted files and the same DVC cache."""
    _clone(source, programs.git("rev-parse", "HEAD", cwd=source), folder)
    changed = programs.git("diff", "--name-only", "-z", "--ignore-submodules", "HEAD", cwd=source)
    untracked = programs.git("ls-files", "-z", "--others", "--exclude-standard", cwd=source)
    for name in filter(None, [*changed.split("\0"), *untracked.split("\0")]):
        remove(folder / name)
        if (source / name).is_file() or (source / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, folder / name, follow_symlinks=False)


def _clone(source: Path, commit: str, folder: Path) -> None:
    """Check out a commit in `folder`, which uses the DVC cache of `source`."""
    programs.git("clone", "--quiet", "--shared", "--no-checkout", str(source.resolve()), str(folder))
    programs.git("checkout", "--quiet", "--detach", commit, cwd=folder)
    programs.use_dvc_cache(programs.dvc_cache(source), folder)


def lock_of(folder: Path = Path()) -> dict[str, Any]:
    """The stages of the dvc.lock in a folder, by name; empty if there is no such file."""
    if not (folder / LOCK).is_file():
        return {}
    lock, pipeline = (stages_of((folder / name).read_text("utf-8"), name) for name in (LOCK, _PIPELINE))
    # DVC keeps the entries of stages that are gone. One of several that dvc.yaml writes as one has an @.
    return {name: entry for name, entry in lock.items() if name.partition("@")[0] in pipeline}


@contextmanager
def _repository(folder: Path = Path()) -> Iterator[Repo]:
    """The DVC repository in a folder; UserError if DVC cannot read its pipeline or parameters."""
    try:
        with Repo(str(folder)) as repo:
            yield repo
    except DvcException as error:
        message = " ".join(str(error).split())
        raise UserError(f"DVC cannot read the pipeline of {folder.resolve().name}: {message}.") from None


def order(folder: Path = Path(), *outputs: Path) -> list[str]:
    """The stages of the pipeline in a folder, each after those whose outputs it reads.

    Args:
        outputs: leave out the stages that none of these paths depends on.
    """
    targets = {folder.resolve() / output for output in outputs}
    with _repository(folder) as repo:
        last = [out.stage for out in repo.index.outs if Path(out.fs_path) in targets]
        stages = plan_repro(repo.index.graph, last) if last or not outputs else []
        return [_name(stage) for stage in stages if stage.cmd]


def frozen(folder: Path) -> tuple[str, ...]:
    """The stages of the pipeline in a folder that dvc.yaml freezes: DVC runs none of them."""
    with _repository(folder) as repo:
        return tuple(_name(stage) for stage in repo.index.stages if stage.cmd and stage.frozen)


def _name(stage: PipelineStage) -> str:
    """A stage's name for commands at the root, which has the path of a dvc.yaml that lies elsewhere."""
    file = stage.path_in_repo
    return str(stage.name if file == str(_PIPELINE) else f"{file}:{stage.name}")


def imports() -> list[str]:
    """The .dvc files of the work tree that `dvc import` or `dvc import-url` made."""
    with _repository() as repo:
        return [stage.relpath for stage in repo.index.stages if stage.is_import]


def dependencies(folder: Path, stages: Collection[str]) -> set[str]:
    """The paths that `stages` of the pipeline in a folder read, relative to it."""
    with _repository(folder) as repo:
        selected = [stage for stage in repo.index.stages if stage.cmd and _name(stage) in stages]
        return {os.path.relpath(dep.fs_path, folder.resolve()) for stage in selected for dep in stage.deps}


def outs(folder: Path, of_stages: bool) -> list[Path]:
    """The paths that the stages of the pipeline in a folder write, or that its .dvc files track.

    The paths are relative to the folder.
    """
    with _repository(folder) as repo:
        tracked = [out for stage in repo.index.stages if bool(stage.cmd) == of_stages for out in stage.outs]
        return [Path(out.fs_path).relative_to(folder.resolve()) for out in tracked]


def drop_missing(folder: Path = Path()) -> list[str]:
    """Remove stages whose outputs are neither here nor in the cache from dvc.lock; return their names.

    With such an entry, DVC would run the stage again without a look at its record of earlier runs.
    """
    if missing := _missing(folder):
        targets = [path for files in missing.values() for path in files]
        programs.dvc("checkout", "--quiet", "--allow-missing", *targets, cwd=folder)
    if missing := _missing(folder):
        with modify_yaml(str(folder / LOCK)) as content:
            for name in missing:
                del content["stages"][name]
    return list(missing)


def _drop_damaged(folder: Path) -> None:
    """DVC trusts its cache, which the branch's remotes may have filled: keep only what has its hash."""
    with _repository(folder) as repo:
        storage.drop_damaged(repo)


def _missing(folder: Path) -> dict[str, list[str]]:
    """The outputs of dvc.lock that a folder lacks, by stage."""
    lock = lock_of(folder)
    with _repository(folder) as repo:
        outputs = {_name(stage): stage.outs for stage in repo.index.stages if stage.cmd}
    missing = {name: [out.fs_path for out in outputs.get(name, ()) if not out.exists] for name in lock}
    return {name: files for name, files in missing.items() if files}


def use_sample(file: Path) -> bool:
    """Set data.source to `sample` in a params.yaml; return whether it was something else before."""
    with modify_yaml(str(file)) as content:
        source, content["data"]["source"] = content["data"]["source"], "sample"
    return bool(source != "sample")
