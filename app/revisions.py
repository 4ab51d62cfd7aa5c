"""Fetch the bundle of a git revision through DVC's API, keep it in the user's cache folder, and check it.

A revision may have two bundles: the artifact `malaria-cells` of its dvc.yaml, whose files are in DVC's
cache or in a remote, and the pretrained one, whose files are in git. The artifact is served or, if it is
missing, the pretrained bundle, with a note. REV:FOLDER, as git writes it, names one bundle and no other.
"""

import contextlib
import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from malaria import bundle, files, paths
from malaria.errors import UserError

from . import git_origin
from .git_origin import git

ARTIFACT = "malaria-cells"
PRETRAINED = paths.PRETRAINED.as_posix()


class Missing(Exception):  # noqa: N818 - a finding about a revision, not a fault of the program
    """A revision lacks the bundle; the message says why in a few words."""


def fetch(name: str, repository: str) -> tuple[Path, git_origin.Origin]:
    """Fetch the bundle of a revision; return its folder and its origin.

    Args:
        name: a tag, branch or commit; a version of the artifact (`malaria-cells@v1.2.0`, or `v1.2.0`
            where git has no tag of that name); with `:FOLDER`, the bundle in that folder.
        repository: a folder, or a URL that git can clone.

    Raises:
        UserError: there is no such revision or bundle, it cannot be fetched, or its files are not those
            that the revision names.
    """
    try:
        return _fetch(name, repository)
    except ModuleNotFoundError as error:
        raise UserError(
            f"A revision's bundle comes through DVC, which is not installed here (no module {error.name}): "
            "pip install 'dvc>=3.67'."
        ) from None


def _fetch(name: str, repository: str) -> tuple[Path, git_origin.Origin]:
    revision, _, folder = name.partition(":")
    commit = commit_of(repository, revision)
    try:
        return _cached(name, repository, commit, folder.strip("/"))
    except Missing as missing:
        if folder or revision.startswith(f"{ARTIFACT}@"):
            raise UserError(f"{name} cannot be served: {missing}.") from None
        reason = str(missing)
    pretrained = f"{revision}:{PRETRAINED}"
    try:
        fetched = _cached(pretrained, repository, commit, PRETRAINED)
    except Missing as missing:
        raise UserError(f"{name} cannot be served: {reason}, and {missing}.") from None
    print(f"note: {pretrained} is served for {name}: {reason}.", file=sys.stderr)
    return fetched


def commit_of(repository: str, revision: str) -> str:
    """The full hash of the commit that a revision names; UserError if there is none."""
    if shutil.which("git") is None:
        raise UserError("A revision's bundle needs git, which is not installed here: install it.")
    find = _local_commit if Path(repository).is_dir() else _remote_commit
    if commit := find(repository, revision) or find(repository, f"{ARTIFACT}@{revision}"):
        return commit
    raise UserError(
        f"{revision} is no revision of {repository}: name a tag, a branch or a commit (for a repository on "
        "another machine, its full hash), or fetch it first."
    )


def _local_commit(repository: str, revision: str) -> str:
    if not git("-C", repository, "rev-parse", "--git-dir"):
        raise UserError(f"{repository} is no git repository: name one with --repo.")
    return git("-C", repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")


def _remote_commit(repository: str, revision: str) -> str:
    # A full hash needs no look-up, so that a bundle in the cache can be served offline.
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    listing = git("ls-remote", "--", repository)
    if not listing:
        raise UserError(f"{repository} is neither a folder nor a repository that git can reach.")
    commits = {name: commit for commit, name in (line.split("\t") for line in listing.splitlines())}
    # An annotated tag is an object of its own; ^{} names the commit that it points to.
    names = (f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}", revision)
    return next((commits[name] for name in names if name in commits), "")


def _cached(name: str, repository: str, commit: str, folder: str) -> tuple[Path, git_origin.Origin]:
    """A bundle in the cache folder, fetched if it is missing; `folder` is empty for the artifact."""
    from malaria.fetch.download import cache_folder

    if ".." in folder.split("/"):
        raise Missing(f"{folder} leads out of the repository")
    home = cache_folder() / "bundles" / commit / (folder.replace("/", "+") or ARTIFACT)
    if not home.is_dir():
        try:
            with files.atomic_folder(home) as part:
                _download(name, repository, commit, folder, part)
        except OSError as error:
            raise UserError(
                f"{home} cannot be written ({error.strerror or error}): free the disk, or name another "
                "folder with MALARIA_CACHE."
            ) from None
    try:
        record = json.loads((home / "origin.json").read_text(encoding="utf-8"))
        origin = git_origin.Origin(record["revision"], record["date"], tuple(record["tags"]))
        intact = git_origin.dvc_hash(home / "bundle") == record["md5"]
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise UserError(
            f"{home} is not the bundle that {name} has (its hash differs): delete this folder, and it is "
            "fetched again."
        )
    if Path(repository).is_dir():
        # Tags may have been added since it was cached.
        origin = git_origin.of_commit(Path(repository), commit)
    return home / "bundle", replace(origin, named=name)


def _download(name: str, repository: str, commit: str, folder: str, part: Path) -> None:
    """Fetch a bundle's files into `part`, and write their hash and origin into origin.json beside them."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import ArtifactNotFoundError
    from dvc.repo.open_repo import clean_repos

    try:
        system = DVCFileSystem(repository, rev=commit, config=_remote_of(repository))
        with contextlib.closing(system):
            path = folder or system.repo.artifacts.get_path(ARTIFACT)
            md5 = _copy(system, PurePosixPath("/", path), part / "bundle")
            origin = git_origin.of_commit(Path(system.repo.scm.root_dir), commit)
    except ArtifactNotFoundError:
        raise Missing(f"its dvc.yaml names no artifact {ARTIFACT}") from None
    except (Missing, UserError):
        raise
    except Exception as error:
        # Each kind of remote and repository has its own errors, which DVC wraps: report the first cause.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        message = " ".join(str(cause).split()) or type(cause).__name__
        raise UserError(f"DVC could not bring {name} ({message}): check the remote and --repo.") from None
    finally:
        clean_repos()
    copied = git_origin.dvc_hash(part / "bundle")
    if md5 and copied != md5:
        raise UserError(
            f"The files that DVC has of {name} are not those that its dvc.lock names (their hash differs): "
            "push them anew."
        )
    files.write_json(part / "origin.json", asdict(origin) | {"md5": copied})


def _remote_of(repository: str) -> dict[str, Any]:
    """Configuration with a local repository's present remote, which older revisions may not name."""
    from dvc.repo import Repo

    if not Path(repository).is_dir():
        return {}
    with Repo(repository, uninitialized=True) as repo:
        name = repo.config["core"].get("remote")
    return {"core": {"remote": name}} if name else {}


def _copy(system: Any, source: PurePosixPath, target: Path) -> str:
    """Copy the files of a folder; return DVC's hash of the folder, empty if git has the files."""
    from dvc_data.index import DataIndexDirError

    folder = source.relative_to("/")
    no_files = f"the files of {folder} are neither in DVC's cache nor in a remote"
    try:
        md5 = str(system.info(str(source)).get("md5") or "")
        entries = system.ls(str(source), detail=True)
    except FileNotFoundError:
        raise Missing(f"it has no folder {folder}") from None
    except DataIndexDirError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise Missing(no_files) from None
        raise
    # Only the last part of each path: a stranger's remote must not make us write outside `target`.
    names = [PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "file"]
    if bundle.RECORD not in names:
        raise Missing(f"{folder} holds no bundle")
    missing = []
    for name in names:
        try:
            system.get_file(str(source / name), str(target / name))
        except FileNotFoundError:
            missing.append(name)
    if missing == names:
        raise Missing(no_files)
    if missing:
        raise UserError(
            f"The bundle is incomplete in DVC's cache and remote, without {missing[0]}: run `dvc push` again."
        )
    return md5
