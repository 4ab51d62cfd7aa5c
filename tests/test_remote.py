"""Results travel: the real `dvc` against real servers, whole ones and broken ones."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml


from tests import storage_servers
from tests.project import git, run
from tests.storage_servers import Store

ENVIRONMENT = {**os.environ, **storage_servers.HERMETIC}


@pytest.fixture(scope="module", params=["s3", "ssh"])
def store(request, tmp_path_factory) -> Iterator[Store]:
    """A server that keeps objects."""
    if request.param == "ssh" and not Path("/usr/sbin/sshd").is_file():
        if os.environ.get("MALARIA_REQUIRE_SSHD"):
            pytest.fail("MALARIA_REQUIRE_SSHD is set, but there is no sshd")
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    home = tmp_path_factory.mktemp(request.param)
    with storage_servers.serving(
        storage_servers.S3() if request.param == "s3" else storage_servers.Ssh(home)
    ) as served:
        yield served


@pytest.fixture(scope="module")
def results(finished, tmp_path_factory) -> Path:
    """A clone of `finished` with its results committed, and its cache as its own. Read it only."""
    clone = tmp_path_factory.mktemp("results") / "clone"
    git("clone", "-q", str(finished), str(clone), cwd=finished)
    for name in ("dvc.lock", "reports/audit.json", "reports/metrics.json", "reports/split.json"):
        shutil.copy(finished / name, clone / name)
    git("add", "-A", cwd=clone)
    git("commit", "-qm", "results", cwd=clone)
    shutil.copytree(finished / ".dvc/cache", clone / ".dvc/cache")
    return clone


@pytest.fixture
def pushed(results, store) -> Path:
    """`results`, pushed to the store."""
    point(results, store)
    dvc("push", "--run-cache", cwd=results)
    return results


@pytest.fixture
def clone(results, store, tmp_path) -> Path:
    """A fresh clone of `results` that knows the store, with nothing of DVC's in it."""
    git("clone", "-q", str(results), str(tmp_path / "clone"), cwd=results)
    point(tmp_path / "clone", store)
    return tmp_path / "clone"


def point(repository: Path, store: Store, options: dict[str, str] | None = None) -> None:
    """What `make remote` and `dvc remote modify --local` write, at once."""
    lines = [
        f"    {name} = {value}" for name, value in (store.options if options is None else options).items()
    ]
    section = "\n".join(["['remote \"storage\"']", f"    url = {store.url}", *lines])
    (repository / ".dvc/config.local").write_text(section + "\n")


def dvc(*arguments: str, cwd: Path, ok: bool = True) -> str:
    """All that dvc says."""
    done = run("dvc", *arguments, cwd=cwd, ok=ok, environment=ENVIRONMENT)
    assert ok or done.returncode != 0, done.stdout
    return done.stdout + done.stderr


def contents(repository: Path) -> dict[str, bytes]:
    """What git ignores and dvc.lock names: every file of every output."""
    lock = yaml.safe_load((repository / "dvc.lock").read_text())
    outs = [repository / out["path"] for stage in lock["stages"].values() for out in stage["outs"]]
    found = [path for out in outs for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file()]
    return {path.relative_to(repository).as_posix(): path.read_bytes() for path in found}


def object_of(repository: Path, output: str) -> str:
    """The name of an output's object in a remote."""
    lock = yaml.safe_load((repository / "dvc.lock").read_text())
    outs = [out for stage in lock["stages"].values() for out in stage["outs"]]
    md5 = next(out["md5"] for out in outs if out["path"] == output)
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def test_a_fresh_clone_pulls_everything_and_has_nothing_to_run(pushed, clone, finished):
    dvc("pull", cwd=clone)
    assert contents(clone) == contents(finished)
    assert "Running stage" not in dvc("repro", cwd=clone)
    assert git("status", "--porcelain", cwd=clone) == ""
