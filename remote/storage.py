"""DVC's remote, looked at object by object: what is there, and whether it is what its name says.

An object is named after the MD5 of its content. DVC uploads whole or not at all, but takes an object that
exists for good, and the files of a folder for present where the folder's own object is. So one that a disk
has damaged since is never sent again by `dvc push`.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB, get_index
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from malaria.errors import UserError


@dataclass(frozen=True)
class Remote:
    """A remote and what the current revision needs of it.

    objects: their MD5s. folders: those of them that list others, with what they list. `cache` is this
    checkout's own store.
    """

    name: str
    odb: HashFileDB
    cache: HashFileDB
    objects: frozenset[str]
    folders: dict[str, frozenset[str]]

    @property
    def url(self) -> str:
        """Without DVC's own folders below it."""
        return str(self.odb.fs.unstrip_protocol(self.odb.path)).removesuffix("/files/md5")

    def there(self) -> set[str]:
        """The MD5s of all objects that the remote holds, of any revision."""
        with _said(self):
            try:
                return set(self.odb.all())  # type: ignore[no-untyped-call]
            except FileNotFoundError:
                return set()

    def damaged(self) -> set[str]:
        """The objects of this revision whose content there is not what their name says; all are read."""
        present = sorted(self.objects & self.there())
        with _said(self), ThreadPoolExecutor(self.odb.fs.jobs) as pool:
            whole = pool.map(lambda md5: _is_whole(self.odb, md5), present)
            return {md5 for md5, good in zip(present, whole, strict=True) if not good}

    def mendable(self, md5s: Iterable[str]) -> set[str]:
        """Those that this checkout's cache has whole."""
        return {md5 for md5 in md5s if self.cache.exists(md5) and _is_whole(self.cache, md5)}

    def forget(self, md5s: Iterable[str]) -> None:
        """Delete objects there, and the folders that list them, so that the next push brings them anew."""
        gone = set(md5s)
        gone |= {folder for folder, listed in self.folders.items() if listed & gone}
        with _said(self):
            for md5 in gone & self.there():
                self.odb.delete(md5)
        # What DVC remembers of earlier pushes.
        get_index(self.odb).clear()


def of(repo: Repo) -> Remote:
    """The default remote of a repository, and the objects that its current revision needs there.

    Raises:
        UserError: there is no such remote, or what this kind of remote needs is not installed.
    """
    try:
        odb = repo.cloud.get_remote_odb(command="push")
    except DvcException as error:
        raise UserError(f"{' '.join(str(error).split())}: see docs/remote.md.") from None
    needed = {out.hash_info.value for out in repo.index.outs if out.use_cache and out.hash_info}
    remote = Remote(repo.config["core"]["remote"], odb, repo.cache.local, frozenset(needed), {})
    with _said(remote):
        folders = {md5: _listed(remote, md5) for md5 in needed if md5.endswith(".dir")}
    return replace(remote, objects=remote.objects.union(*folders.values()), folders=folders)


def _listed(remote: Remote, md5: str) -> frozenset[str]:
    """What a folder's object lists, by the cache or else the remote; nothing where neither can tell."""
    for odb in (remote.cache, remote.odb):
        try:
            return frozenset(info.value for _, _, info in Tree.load(odb, HashInfo("md5", md5)))
        except (FileNotFoundError, ObjectFormatError):
            continue
    return frozenset()


def _is_whole(odb: HashFileDB, md5: str) -> bool:
    _, found = hash_file(odb.oid_to_path(md5), odb.fs, "md5")
    return bool(found.value == md5.removesuffix(".dir"))


@contextmanager
def _said(remote: Remote) -> Iterator[None]:
    """What a store says in its own way, in one sentence."""
    try:
        yield
    except Exception as error:
        # Each kind of store has exceptions of its own; DVC has none above them.
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"The remote {remote.name} ({remote.url}) does not answer: {said}.") from None
