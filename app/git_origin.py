"""Find the git commit that a served bundle comes from."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from malaria import programs
from malaria.errors import UserError


@dataclass(frozen=True)
class Origin:
    """The commit that carries a bundle: `revision` (hash), `date` (ISO 8601) and `tags`.

    All are empty if git knows of none. `named`: the revision that the user asked for, such as `v1.2.0` or
    `v1.2.0:models/pretrained`; empty if none was asked for.
    """

    revision: str = ""
    date: str = ""
    tags: tuple[str, ...] = ()
    named: str = ""


def of(folder: Path) -> Origin:
    """Find the last commit that changed `folder` or, for an output of DVC, the dvc.lock that names it."""
    folder = folder.resolve()
    top = git("-C", str(folder), "rev-parse", "--show-toplevel")
    if not top:
        return Origin()
    carrier = folder
    if git("-C", str(folder), "status", "--porcelain", "--ignored", "--", str(folder)):
        # The lock file of HEAD: a run's changes to the one in the work tree belong to no commit yet.
        if dvc_hash(folder) not in git("-C", top, "show", "HEAD:dvc.lock"):
            return Origin()
        carrier = Path(top) / "dvc.lock"
    return of_commit(folder, git("-C", str(folder), "log", "-1", "--format=%H", "--", str(carrier)))


def of_commit(repository: Path, revision: str) -> Origin:
    """Date and tags of a commit; `repository`: a folder in the git repository."""
    if not revision:
        return Origin()
    tags = git("-C", str(repository), "tag", "--points-at", revision).split()
    return Origin(revision, git("-C", str(repository), "show", "-s", "--format=%cI", revision), tuple(tags))


def dvc_hash(folder: Path) -> str:
    """The MD5 that DVC's lock file has for a folder with these files."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    entries = [{"md5": _md5(path.read_bytes()), "relpath": name} for name, path in sorted(files.items())]
    return f"{_md5(json.dumps(entries, sort_keys=True).encode())}.dir"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def git(*arguments: str) -> str:
    """Run git and return its answer; empty if git, the repository or the answer is missing."""
    try:
        return programs.git(*arguments, timeout=120)
    except UserError:
        return ""
