"""DVC's remote, looked at object by object: what is there, and whether it is what its name says.

An object is named after the MD5 of its content. DVC uploads whole or not at all, but takes an object that
exists for good, and the files of a folder for present where the folder's own object is. So one that a disk
has damaged since is never sent again by `dvc push`.
"""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB, get_index
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from malaria.errors import UnavailableError, UserError

_AWAY = r"onnect|resolve|timed out|unreachable"

# What each kind of store says, in its own words, and what that means.
_MEANINGS = {
    r"Forbidden|Denied|InvalidAccessKeyId|SignatureDoesNotMatch|[Cc]redentials|Permission": "refuses the "
    "credentials: see docs/remote.md for where they go",
    r"NoSuchBucket|bucket does not exist": "has no such bucket: make it, or check the URL",
    _AWAY: "cannot be reached: check its address, or try again later",
}


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
        return url_of(self.odb)

    def there(self) -> set[str]:
        """The MD5s of all objects that the remote holds, of any revision."""
        with one_sentence(self.name, self.url):
            try:
                return set(self.odb.all())  # type: ignore[no-untyped-call]
            except FileNotFoundError:
                return set()

    def damaged(self) -> set[str]:
        """The objects of this revision whose content there is not what their name says; all are read."""
        present = sorted(self.objects & self.there())
        with one_sentence(self.name, self.url), ThreadPoolExecutor(self.odb.fs.jobs) as pool:
            whole = pool.map(lambda md5: _is_whole(self.odb, md5), present)
            return {md5 for md5, good in zip(present, whole, strict=True) if not good}

    def replaceable(self, md5s: Iterable[str]) -> set[str]:
        """Those that this checkout's cache has whole."""
        return {md5 for md5 in md5s if self.cache.exists(md5) and _is_whole(self.cache, md5)}

    def forget(self, md5s: Iterable[str]) -> None:
        """Delete objects there, and the folders that list them, so that the next push brings them anew."""
        gone = set(md5s)
        gone |= {folder for folder, listed in self.folders.items() if listed & gone}
        with one_sentence(self.name, self.url):
            for md5 in gone & self.there():
                self.odb.delete(md5)
        # What DVC remembers of earlier pushes.
        get_index(self.odb).clear()


def use(name: str, **options: str | bool) -> None:
    """Make a remote, with its `url` and DVC's other options, the default of this checkout (config.local)."""
    with Config.from_cwd().edit("local") as local:
        local["core"]["remote"] = name
        local["remote"][name] = options


def url_of(odb: HashFileDB) -> str:
    """The URL of a store, without DVC's own folders below it."""
    return str(odb.fs.unstrip_protocol(odb.path)).removesuffix("/files/md5")


def reach(repo: Repo, name: str | None = None) -> HashFileDB:
    """The store of a remote, the default one unless named, after it has answered.

    Raises:
        UserError: there is no such remote, what its kind needs is not installed, or it does not answer.
    """
    try:
        odb: HashFileDB = repo.cloud.get_remote_odb(name, command="push")
    except (DvcException, ImportError) as error:
        raise UserError(f"{' '.join(str(error).split())}: see docs/remote.md.") from None
    with one_sentence(name or repo.config["core"]["remote"], url_of(odb)):
        if odb.fs.protocol == "s3":
            # Where asked whether something exists, it takes a refusal for a no.
            odb.fs.fs.call_s3("list_objects_v2", Bucket=odb.path.split("/")[0], MaxKeys=1)
        odb.fs.exists(odb.path)
    return odb


def of(repo: Repo) -> Remote:
    """The default remote of a repository, and the objects that its current revision needs; see `reach`."""
    odb = reach(repo)
    needed = {out.hash_info.value for out in repo.index.outs if out.use_cache and out.hash_info}
    remote = Remote(repo.config["core"]["remote"], odb, repo.cache.local, frozenset(needed), {})
    with one_sentence(remote.name, remote.url):
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
def one_sentence(name: str, url: str) -> Iterator[None]:
    """What a store says in its own way, as a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Each kind of store has exceptions of its own; DVC has none above them.
        said = " ".join(f"{error} {error.__cause__ or ''}".split()) or type(error).__name__
        sign = next((sign for sign in _MEANINGS if re.search(sign, said)), "")
        kind = UnavailableError if sign == _AWAY else UserError
        raise kind(f"The remote {name} ({url}) {_MEANINGS.get(sign, 'fails')} ({said}).") from None
