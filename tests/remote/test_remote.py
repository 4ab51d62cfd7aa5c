"""Pushing and pulling results: the real `dvc` with real S3 and SSH servers, working and failing."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml

from app import git_origin
from tests.support import app_server, storage_servers
from tests.support.project import ROOT, git, run
from tests.support.storage_servers import Store

pytestmark = [pytest.mark.long, pytest.mark.restarts_processes]

ENVIRONMENT = {**os.environ, **storage_servers.HERMETIC}


@pytest.fixture(scope="module", params=["s3", "ssh"])
def store(request, tmp_path_factory) -> Iterator[Store]:
    """A server that stores objects: over S3, and over SSH."""
    if request.param == "ssh" and not Path("/usr/sbin/sshd").is_file():
        if os.environ.get("MALARIA_REQUIRE_SERVERS"):
            pytest.fail("MALARIA_REQUIRE_SERVERS is set, but there is no sshd")
        pytest.skip("needs OpenSSH's server: make servers, as root")
    home = tmp_path_factory.mktemp(request.param)
    with storage_servers.serving(
        storage_servers.S3() if request.param == "s3" else storage_servers.Ssh(home)
    ) as served:
        yield served


@pytest.mark.parametrize("kind", ["gs", "azure"])
def test_a_store_whose_plug_in_is_not_here_is_one_sentence(tmp_path, kind):
    git("init", "-q", cwd=tmp_path)
    run("dvc", "init", "-q", cwd=tmp_path)
    run("dvc", "remote", "add", "-d", "far", f"{kind}://bucket/cells", cwd=tmp_path)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    for command in ("push", "pull"):
        done = run(sys.executable, "-m", f"remote.{command}", cwd=tmp_path, ok=False, environment=environment)
        assert done.stderr.startswith(
            f"error: {kind} is supported, but requires 'dvc-{kind}' to be installed"
        )
        assert done.stderr.count("\n") == 1


def test_a_pull_takes_nothing_away_that_is_saved_nowhere(tmp_path):
    repository = tmp_path / "repository"
    cells = repository / "data/mine"
    cells.mkdir(parents=True)
    (cells / "old.png").write_text("old")
    git("init", "-q", cwd=repository)
    for words in ("init -q", "remote add -q -d near ../store", "add -q data/mine"):
        run("dvc", *words.split(), cwd=repository)
    command(repository, "push", PYTHONPATH=str(ROOT))
    (cells / "new.png").write_text("new")
    said = command(repository, "pull", ok=False, PYTHONPATH=str(ROOT))
    assert f"error: {cells / 'new.png'} " in said
    assert (cells / "new.png").read_text() == "new"
    run("dvc", "add", "-q", "data/mine", cwd=repository)
    command(repository, "pull", PYTHONPATH=str(ROOT))
    assert sorted(path.name for path in cells.iterdir()) == ["new.png", "old.png"]


@pytest.fixture(scope="module")
def results(finished, tmp_path_factory) -> Path:
    """A clone of `finished` with committed results and its own copy of the cache. Do not change it."""
    clone = tmp_path_factory.mktemp("results") / "clone"
    git("clone", "-q", str(finished), str(clone), cwd=finished)
    for made in ("dvc.lock", "reports/summary.json"):
        shutil.copy(finished / made, clone / made)
    git("add", "-A", cwd=clone)
    git("commit", "-qm", "results", cwd=clone)
    shutil.copytree(finished / ".dvc/cache", clone / ".dvc/cache")
    return clone


@pytest.fixture(scope="module")
def pushed(results, store) -> Path:
    """`results`, after all its files were pushed to the store."""
    point(results, store)
    command(results, "push")
    return results


@pytest.fixture
def clone(results, store, tmp_path) -> Path:
    """A fresh clone of `results` whose remote is the store, without outputs and with an empty cache."""
    git("clone", "-q", str(results), str(tmp_path / "clone"), cwd=results)
    point(tmp_path / "clone", store)
    return tmp_path / "clone"


def point(repository: Path, store: Store, *, options: dict[str, str] | None = None, url: str = "") -> None:
    """Set a repository's remote, as `dvc remote modify --local` does."""
    options = {"url": url or store.url, **(store.options if options is None else options)}
    lines = ["['remote \"storage\"']", *(f"    {name} = {value}" for name, value in options.items())]
    (repository / ".dvc/config.local").write_text("\n".join(lines) + "\n")


def dvc(*arguments: str, cwd: Path, ok: bool = True) -> str:
    """Run dvc; return its stdout and stderr. Unless `ok`, it has to fail."""
    done = run("dvc", *arguments, cwd=cwd, ok=ok, environment=ENVIRONMENT)
    assert ok or done.returncode != 0, done.stdout
    return done.stdout + done.stderr


def command(repository: Path, name: str, *arguments: str, ok: bool = True, **more: str) -> str:
    """Run a module of `remote`; return its stdout and stderr, which must hold no traceback.

    Unless `ok`, it has to end with status 1, or 75 (another try may help).
    """
    done = run(
        sys.executable, "-m", f"remote.{name}", *arguments,
        cwd=repository, ok=ok, environment={**ENVIRONMENT, **more},
    )  # fmt: skip
    assert ok or done.returncode in (1, 75), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def contents(repository: Path) -> dict[str, bytes]:
    """{path: content} of every file of the outputs in dvc.lock."""
    outs = [repository / out["path"] for out in outputs(repository)]
    found = [path for out in outs for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file()]
    return {path.relative_to(repository).as_posix(): path.read_bytes() for path in found}


def outputs(repository: Path) -> list[dict[str, str]]:
    lock = yaml.safe_load((repository / "dvc.lock").read_text())
    return [out for stage in lock["stages"].values() for out in stage["outs"]]


def object_of(repository: Path, output: str) -> str:
    """The name of an output's object in a store."""
    md5 = next(out["md5"] for out in outputs(repository) if out["path"] == output)
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def spoil(store: Store, name: str) -> None:
    """Change one bit of an object."""
    content = bytearray(store.read(name))
    content[len(content) // 2] ^= 1
    store.write(name, bytes(content))


@pytest.mark.usefixtures("pushed")
def test_a_fresh_clone_pulls_everything_and_has_nothing_to_run(clone, finished):
    dvc("pull", cwd=clone)
    assert contents(clone) == contents(finished)
    assert "Running stage" not in dvc("repro", cwd=clone)
    assert git("status", "--porcelain", cwd=clone) == ""


@pytest.mark.usefixtures("pushed")
def test_the_app_serves_the_bundle_of_a_revision_from_the_remote(clone, tmp_path, monkeypatch):
    for name, value in {**storage_servers.HERMETIC, "MALARIA_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    with app_server.start("--rev", "HEAD", "--repo", str(clone), log=tmp_path / "log") as app:
        served = requests.get(f"{app.url}/version", timeout=60).json()
    assert served["revision"] == git("rev-parse", "HEAD", cwd=clone)
    bundle = next(out for out in outputs(clone) if out["path"] == "models/malaria-cells")
    assert bundle["md5"] == git_origin.dvc_hash(next((tmp_path / "cache/bundles").glob("*/*/bundle")))
    assert not (clone / "models/malaria-cells").exists()


@pytest.mark.usefixtures("pushed")
@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_with_the_runs_pushed_a_clone_without_a_lock_draws_the_split_alone(clone, finished):
    git("rm", "-q", "dvc.lock", "reports/summary.json", cwd=clone)
    said = dvc("repro", "--pull", cwd=clone)
    assert "Stage 'train' is cached - skipping run" in said
    # DVC's run cache keeps no run of a stage that reads its own earlier output, here data/sides.json.
    assert re.findall("Running stage '(.+)'", said) == ["split"]
    assert contents(clone) == contents(finished)


@contextmanager
def down(store: Store, _: Path) -> Iterator[str]:
    store.stop()
    try:
        yield "onnect"
    finally:
        store.start()


@contextmanager
def wrong_credentials(store: Store, repository: Path) -> Iterator[str]:
    point(repository, store, options=store.wrong)
    try:
        yield "Forbidden|Permission denied"
    finally:
        point(repository, store)


@pytest.mark.parametrize("fault", [down, wrong_credentials])
@pytest.mark.usefixtures("pushed")
def test_a_remote_that_does_not_answer_is_named_and_the_next_pull_succeeds(fault, store, clone, finished):
    with fault(store, clone) as reason:
        said = dvc("pull", "models/malaria-cells", cwd=clone, ok=False)
    assert re.search(f"failed to connect to (s3|ssh) .*({reason})", said)
    assert "Traceback" not in said
    assert not (clone / "models/malaria-cells").exists()
    dvc("pull", "models/malaria-cells", cwd=clone)
    network = "models/malaria-cells/network.tflite"
    assert (clone / network).read_bytes() == (finished / network).read_bytes()


def test_after_a_killed_push_a_pull_says_what_is_missing_and_the_next_push_completes(
    results, store, clone, finished
):
    for repository in (results, clone):
        point(repository, store, url=f"{store.url}-half")
    process = subprocess.Popen([sys.executable, "-m", "dvc", "push"], cwd=results, env=ENVIRONMENT)
    store.at_upload(30, process.kill)
    assert process.wait(300) == -signal.SIGKILL
    said = dvc("pull", cwd=clone, ok=False)
    assert "Some of the cache files do not exist neither locally nor on remote" in said
    assert "ERROR: failed to pull data from the cloud" in said
    dvc("push", cwd=results)
    dvc("pull", cwd=clone)
    assert contents(clone) == contents(finished)


@pytest.mark.parametrize("store", ["ssh"], indirect=True)
def test_a_damaged_object_never_arrives_and_a_verifying_push_mends_it(pushed, store, clone, finished):
    point(pushed, store)
    spoil(store, object_of(pushed, "models/model.keras"))
    said = dvc("pull", "models/model.keras", cwd=clone, ok=False)
    assert "Checkout failed for following targets:\nmodels/model.keras" in said
    assert not (clone / "models/model.keras").exists()
    assert "this checkout's cache does not have them" in command(clone, "push", "--verify", ok=False)
    assert "is damaged in the remote storage, and is sent again" in command(pushed, "push", "--verify")
    dvc("pull", "models/model.keras", cwd=clone)
    assert (clone / "models/model.keras").read_bytes() == (finished / "models/model.keras").read_bytes()


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_damaged_list_of_files_is_repaired_with_the_files_that_it_lists(pushed, store):
    point(pushed, store)
    listing = object_of(pushed, "models/malaria-cells")
    before = store.read(listing)
    spoil(store, listing)
    command(pushed, "push", "--verify")
    assert store.read(listing) == before


def test_results_travel_without_an_account_by_a_folder_beside_the_checkout(results, finished, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        git("clone", "-q", str(results), str(folder), cwd=results)
    shutil.copytree(results / ".dvc/cache", here / ".dvc/cache")
    dvc("push", cwd=here)
    assert (tmp_path / "malaria-cells-storage/files/md5").is_dir()
    dvc("pull", cwd=there)
    assert contents(there) == contents(finished)


@pytest.mark.parametrize("what", ["push", "pull"])
@pytest.mark.parametrize("fault", [down, wrong_credentials])
@pytest.mark.usefixtures("pushed")
def test_a_store_s_fault_is_one_sentence_that_says_what_to_do(fault, what, store, clone):
    with fault(store, clone):
        said = command(clone, what, ok=False)
    assert said.count("\n") == 1
    assert said.startswith("error: The remote storage (")
    meaning = "cannot be reached" if fault is down else "refuses the credentials"
    assert meaning in said


@pytest.mark.parametrize("what", ["push", "pull"])
@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_missing_bucket_is_said(what, store, clone):
    point(clone, store, url="s3://no-such-bucket/results")
    assert "has no such bucket: make it, or check the URL" in command(clone, what, ok=False)


def test_a_stranger_s_pull_says_how_much_is_missing_and_what_to_do(results, tmp_path):
    git("clone", "-q", str(results), str(tmp_path / "clone"), cwd=results)
    said = command(tmp_path / "clone", "pull", ok=False)
    assert re.search(r"error: \d+ of the results that dvc\.lock names \(\S+ is the first\) are not in", said)
    assert "make repro" in said


@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.usefixtures("pushed")
def test_make_pull_brings_what_dvc_lock_names(clone, finished):
    assert "are here" in command(clone, "pull")
    assert contents(clone) == contents(finished)


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_release_comes_from_a_store_that_its_repository_does_not_name(pushed, store, tmp_path):
    git("clone", "-q", "--bare", str(pushed), str(tmp_path / "released"), cwd=tmp_path)
    git("tag", "-a", "-m", "notes", "malaria-cells@v1.2.0", cwd=tmp_path / "released")
    (line,) = re.findall(
        r"^(dvc artifacts get .*--remote-config.*)$", (ROOT / "docs/releases.md").read_text(), re.M
    )
    line = line.replace("https://github.com/OWNER/malaria-cells", f"file://{tmp_path / 'released'}")
    line = line.replace(
        "s3://BUCKET/malaria-cells", f"{store.url} endpointurl={store.options['endpointurl']}"
    )
    keys = {f"AWS_{name.upper()}": store.options[name] for name in ("access_key_id", "secret_access_key")}
    run("bash", "-c", line.partition("#")[0], cwd=tmp_path, environment={**ENVIRONMENT, **keys})
    bundle = tmp_path / "malaria-cells"
    assert (bundle / "network.tflite").is_file()


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """The current folder, which holds only the project's DVC settings."""
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", tmp_path / ".dvc/config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BLOCKS = [
    block
    for block in re.findall(r"^```sh\n(.*?)```", (ROOT / "docs/remote.md").read_text(), re.M | re.S)
    if block.startswith("dvc remote modify --local storage url ")
]


@pytest.mark.parametrize("block", BLOCKS)
def test_each_documented_setting_is_one_that_dvc_takes(block, repository):
    run("bash", "-e", "-c", block, cwd=repository)
    assert re.search(r" url (\S+)", block)[1] in (repository / ".dvc/config.local").read_text()


def test_the_documentation_names_every_kind_of_store():
    assert {re.search(r" url (\w+)://", block)[1] for block in BLOCKS} >= {"s3", "ssh", "gs", "azure"}


def test_the_settings_in_git_hold_neither_a_secret_nor_a_path_of_one_machine():
    settings = (ROOT / ".dvc/config").read_text()
    assert not re.search("key|secret|token|password|credential", settings)
    assert not re.search(r"= /|= [A-Z]:", settings)
    assert "/config.local" in (ROOT / ".dvc/.gitignore").read_text().splitlines()
