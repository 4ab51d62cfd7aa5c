"""Reach DVC's remote, compare its objects with their hashes, and replace damaged ones.

An object is named after the MD5 of its content. DVC uploads an object whole or not at all, but trusts every
object that exists, and takes the files of a folder for present if the folder's own object is. So `dvc push`
never sends an object again that was damaged later, by a disk for example.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB, get_index
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from malaria.errors import UnavailableError, UserError

_UNREACHABLE = r"onnect|resolve|timed out|unreachable"

# Patterns in the error messages of stores, and what they mean.
_MEANINGS = {
    r"Forbidden|Denied|InvalidAccessKeyId|SignatureDoesNotMatch|[Cc]redentials|Permission": "refuses the "
    "credentials: see docs/remote.md for where they go",
    r"NoSuchBucket|bucket does not exist": "has no such bucket: make it, or check the URL",
    _UNREACHABLE: "cannot be reached: check its address, or try again later",
}


def use(name: str, **options: str | bool) -> None:
    """Make a remote, with its `url` and DVC's other options, the default of this checkout (config.local)."""
    with Config.from_cwd().edit("local") as local:
        local["core"]["remote"] = name
        local["remote"][name] = options


def url_of(odb: HashFileDB) -> str:
    """The URL of a store, without DVC's own folders below it."""
    return str(odb.fs.unstrip_protocol(odb.path)).removesuffix("/files/md5")


@contextmanager
def connect() -> Iterator[tuple[Repo, HashFileDB]]:
    """Yield the current folder's repository and the store of its default remote, after it has answered.

    Raises:
        UserError: there is no remote, a library that it needs is not installed, it does not answer, or it
            fails in the `with` block; an UnavailableError, if another try may help.
    """
    with Repo() as repo:
        try:
            odb: HashFileDB = repo.cloud.get_remote_odb(command="push")
        except (DvcException, ImportError) as error:
            raise UserError(f"{' '.join(str(error).split())}: see docs/remote.md.") from None
        try:
            if odb.fs.protocol == "s3":
                # `exists` below takes a refusal for absence, but a listing raises it.
                odb.fs.fs.call_s3("list_objects_v2", Bucket=odb.path.split("/")[0], MaxKeys=1)
            odb.fs.exists(odb.path)
            yield repo, odb
        except UserError:
            raise
        except Exception as error:
            # Each kind of store has its own exceptions, and DVC gives them no common base class.
            message = " ".join(f"{error} {error.__cause__ or ''}".split()) or type(error).__name__
            pattern = next((pattern for pattern in _MEANINGS if re.search(pattern, message)), "")
            kind = UnavailableError if pattern == _UNREACHABLE else UserError
            remote = f"{repo.config['core']['remote']} ({url_of(odb)})"
            raise kind(f"The remote {remote} {_MEANINGS.get(pattern, 'fails')} ({message}).") from None


def drop_damaged(repo: Repo) -> None:
    """Remove results that dvc.lock names from the cache if they do not have their hash; print a line each.

    A remote that an output names by itself, or one without `verify`, may have brought it.
    """
    cache = repo.cache.local
    objects, _ = _objects(repo, [cache])
    for md5 in sorted(objects):
        if cache.exists(md5) and not _is_intact(cache, md5):
            cache.delete(md5)
            print(f"{md5} was damaged in DVC's cache, and is removed there.", flush=True)


def replace_damaged(repo: Repo, odb: HashFileDB) -> None:
    """Delete objects that are damaged in the remote and intact in the cache; the next push sends them again.

    Raises:
        UserError: an object is damaged that this checkout's cache does not have intact.
    """
    name, cache = repo.config["core"]["remote"], repo.cache.local
    objects, folders = _objects(repo, [cache, odb])
    present = list(odb.list_oids_exists(sorted(objects)))
    with ThreadPoolExecutor(odb.fs.jobs) as pool:
        intact = pool.map(lambda md5: _is_intact(odb, md5), present)
        damaged = {md5 for md5, ok in zip(present, intact, strict=True) if not ok}
    replaceable = {md5 for md5 in damaged if cache.exists(md5) and _is_intact(cache, md5)}
    # Delete the folders' own objects, too: while one exists, a push takes its folder's files for present.
    listings = {folder for folder, files in folders.items() if files & replaceable}
    for md5 in (replaceable | listings).intersection(present):
        odb.delete(md5)
    # DVC's memory of earlier pushes.
    get_index(odb).clear()
    for md5 in sorted(replaceable):
        print(f"{md5} is damaged in the remote {name}, and is sent again.")
    if lost := sorted(damaged - replaceable):
        raise UserError(
            f"{len(lost)} of {len(objects):,} objects are damaged in the remote {name}, and "
            f"this checkout's cache does not have them ({lost[0]} is the first): run `make push VERIFY=1` "
            "where they were made."
        )
    print(f"{len(objects):,} objects of this revision were read in the remote {name}.")


def _objects(repo: Repo, stores: Sequence[HashFileDB]) -> tuple[set[str], dict[str, frozenset[str]]]:
    """Hashes of all objects of the results that dvc.lock names; and those of the files in each folder."""
    outputs = {out.hash_info.value for out in repo.index.outs if out.use_cache and out.hash_info}
    folders = {md5: _files_of(stores, md5) for md5 in outputs if md5.endswith(".dir")}
    return outputs.union(*folders.values()), folders


def _files_of(stores: Sequence[HashFileDB], md5: str) -> frozenset[str]:
    """Hashes of a folder's files, from the first store that has its object; none if no store has it."""
    for odb in stores:
        try:
            return frozenset(info.value for _, _, info in Tree.load(odb, HashInfo("md5", md5)))
        except (FileNotFoundError, ObjectFormatError):
            continue
    return frozenset()


def _is_intact(odb: HashFileDB, md5: str) -> bool:
    _, actual = hash_file(odb.oid_to_path(md5), odb.fs, "md5")
    return bool(actual.value == md5.removesuffix(".dir"))
