"""Serve bundles of git revisions (`--rev`), from a small repository with DVC and release tags."""

import gc
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from app import revisions
from app.model import open_model, with_distinct_titles
from malaria import bundle
from malaria.errors import UserError
from tests.app.test_app import png
from tests.support import app_server, bundles
from tests.support.project import commit, git

# DVC leaves its clones, with open pack files, to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DVC_YAML = """
stages:
  export:
    cmd: python -m stages.export
    outs:
      - models/malaria-cells
artifacts:
  malaria-cells:
    path: models/malaria-cells
    type: model
"""


@dataclass(frozen=True)
class Repository:
    """A git repository with three commits, and the folder of its DVC remote.

    `first` has only a pretrained bundle. `second` also has an artifact, and the tags `release` and
    `malaria-cells@v1.2.0`. The newest, on branch `main`, has another artifact, which was not pushed.
    """

    folder: Path
    store: Path
    first: str
    second: str

    @property
    def url(self) -> str:
        return self.folder.as_uri()


def write_bundle(folder: Path, temperature: float) -> None:
    """Write the violet bundle (`bundles.violet`) with this temperature, which identifies it in tests."""
    shutil.rmtree(folder, ignore_errors=True)
    record = json.loads((bundles.violet(folder) / bundle.RECORD).read_text())
    (folder / bundle.RECORD).write_text(json.dumps(record | {"temperature": temperature}))


def temperature(found: tuple[Path, object]) -> float:
    return bundle.read_record(found[0]).temperature


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    from dvc.repo import Repo

    folder, store = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("store")
    git("init", "-q", "-b", "main", ".", cwd=folder)
    write_bundle(folder / "models/pretrained", 1.0)
    first = commit(folder, "a pretrained bundle")
    with Repo.init(str(folder)) as repo:
        (folder / "dvc.yaml").write_text(DVC_YAML)
        (folder / "models/.gitignore").write_text("/malaria-cells\n")
        with repo.config.edit("repo") as config:
            config["core"] = {"remote": "store", "analytics": False}
            config["remote"] = {"store": {"url": str(store)}}
        write_bundle(folder / "models/malaria-cells", 2.0)
        repo.commit(force=True)
        repo.push()
        second = commit(folder, "an artifact")
        git("tag", "-a", "-m", "x", "malaria-cells@v1.2.0", cwd=folder)
        git("tag", "release", cwd=folder)
        write_bundle(folder / "models/malaria-cells", 3.0)
        repo.commit(force=True)
        commit(folder, "another artifact")
    shutil.rmtree(folder / ".dvc/cache")
    shutil.rmtree(folder / "models/malaria-cells")
    return Repository(folder, store, first, second)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache for each test, of bundles and of DVC's record of files; returns the bundles' folder."""
    monkeypatch.setenv("MALARIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return tmp_path / "cache/bundles"


@pytest.fixture
def store(repository, tmp_path):
    """The remote's folder, which a test may damage: it is restored after the test."""
    shutil.copytree(repository.store, tmp_path / "sound")
    yield repository.store
    shutil.rmtree(repository.store, ignore_errors=True)
    shutil.copytree(tmp_path / "sound", repository.store)


@pytest.mark.parametrize("named", ["release", "malaria-cells@v1.2.0", "v1.2.0", "main~1", "SECOND"])
@pytest.mark.parametrize("where", ["folder", "url"])
def test_a_revision_is_named_by_tag_branch_commit_or_version(repository, named, where):
    if (named, where) == ("main~1", "url"):
        named = "SECOND"
    named = named.replace("SECOND", repository.second)
    found, known = revisions.fetch(named, str(getattr(repository, where)))
    assert temperature((found, known)) == 2.0
    assert (known.revision, known.named) == (repository.second, named)
    assert set(known.tags) == {"release", "malaria-cells@v1.2.0"}
    assert known.date.startswith("20")


def test_a_branch_of_another_repository_is_found_too(repository):
    assert temperature(revisions.fetch("main:models/pretrained", repository.url)) == 1.0


def test_where_dvc_has_no_files_of_the_artifact_the_pretrained_bundle_is_served_and_that_is_said(
    repository, capsys
):
    found, known = revisions.fetch("main", str(repository.folder))
    assert temperature((found, known)) == 1.0
    assert known.named == "main:models/pretrained"
    said = capsys.readouterr().err
    assert (
        "main:models/pretrained is served for main: the files of models/malaria-cells are neither in" in said
    )


def test_a_revision_without_dvc_has_its_pretrained_bundle(repository, capsys):
    assert temperature(revisions.fetch(repository.first, str(repository.folder))) == 1.0
    assert "names no artifact malaria-cells" in capsys.readouterr().err


def test_a_named_folder_is_taken_and_no_other(repository):
    assert temperature(revisions.fetch("release:models/pretrained", str(repository.folder))) == 1.0
    assert temperature(revisions.fetch("release:models/malaria-cells", str(repository.folder))) == 2.0
    for folder, sentence in (
        ("data", "it has no folder data"),
        ("models", "models holds no bundle"),
        ("..", r"\.\. leads out of the repository"),
    ):
        with pytest.raises(UserError, match=f"release:{folder} cannot be served: {sentence}"):
            revisions.fetch(f"release:{folder}", str(repository.folder))


def test_a_named_version_is_never_replaced_by_another_bundle(repository, store):
    shutil.rmtree(store / "files")
    with pytest.raises(
        UserError, match=r"malaria-cells@v1\.2\.0 cannot be served: the files of .* are neither"
    ):
        revisions.fetch("malaria-cells@v1.2.0", str(repository.folder))


@pytest.mark.parametrize("where", ["folder", "url"])
def test_a_bundle_that_was_fetched_once_needs_neither_remote_nor_dvc(repository, store, where, monkeypatch):
    named, source = repository.second, str(getattr(repository, where))
    revisions.fetch(named, source)
    shutil.rmtree(store)
    monkeypatch.setitem(sys.modules, "dvc.api", None)
    assert temperature(revisions.fetch(named, source)) == 2.0


def test_without_dvc_a_sentence_says_what_to_install(repository, monkeypatch):
    monkeypatch.setitem(sys.modules, "dvc.api", None)
    with pytest.raises(UserError, match=r"DVC, which is not installed here .*: pip install 'dvc>=3\.67'\.$"):
        revisions.fetch("release", str(repository.folder))


def test_a_kept_bundle_that_was_changed_is_not_served(repository, cache):
    folder, _ = revisions.fetch("release", str(repository.folder))
    (folder / bundle.CARD).write_text("another card")
    with pytest.raises(UserError, match=r"its hash differs\): delete this folder"):
        revisions.fetch("release", str(repository.folder))
    shutil.rmtree(folder.parent / "bundle")
    (folder.parent / "origin.json").write_text("{")
    with pytest.raises(UserError, match="delete this folder"):
        revisions.fetch("release", str(repository.folder))
    shutil.rmtree(cache / repository.second)
    assert temperature(revisions.fetch("release", str(repository.folder))) == 2.0


def stored(store: Path, file: str) -> Path:
    """The path of a file of the second commit's artifact in the remote, found by its content."""
    content = {"bundle.json": b'"temperature": 2.0', "network.tflite": b"TFL3"}[file]
    return next(path for path in store.rglob("*") if path.is_file() and content in path.read_bytes()[:4000])


def test_what_was_changed_in_the_remote_is_neither_served_nor_kept(repository, store, cache):
    spoilt = stored(store, "network.tflite")
    spoilt.chmod(0o644)
    spoilt.write_bytes(spoilt.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"not those that its dvc\.lock names \(their hash differs\)"):
        revisions.fetch("release", str(repository.folder))
    assert not list(cache.glob("*/*"))


def test_a_half_pushed_bundle_is_an_error_and_no_reason_to_serve_another(repository, store):
    stored(store, "network.tflite").unlink()
    with pytest.raises(UserError, match=r"is incomplete in DVC's cache and remote, without network\.tflite"):
        revisions.fetch("release", str(repository.folder))


def test_what_leads_to_no_revision_is_said_in_a_sentence(repository, tmp_path):
    for named, source, sentence in (
        ("v9", str(repository.folder), "v9 is no revision of"),
        ("--all", str(repository.folder), "--all is no revision of"),
        ("v9", repository.url, "v9 is no revision of"),
        ("v9", str(tmp_path), "is no git repository: name one with --repo"),
        ("v9", (tmp_path / "none").as_uri(), "is neither a folder nor a repository that git can reach"),
    ):
        with pytest.raises(UserError, match=sentence):
            revisions.fetch(named, source)
    # DVC's errors hold its open clones in reference cycles.
    gc.collect()


def test_a_commit_that_no_repository_has_is_said_in_a_sentence(repository):
    done = subprocess.run(
        [sys.executable, "-m", "app", "--rev", "0" * 40, "--repo", repository.url],
        cwd=app_server.ROOT, capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 1
    assert "DVC could not bring" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_listing_from_a_strangers_remote_leads_nowhere_else(repository, store, tmp_path):
    listing = next(store.rglob("*.dir"))
    listing.chmod(0o644)
    entries = json.loads(listing.read_text())
    evil = [
        {**entries[0], "relpath": path} for path in ("../../../evil.json", "../evil.json", "/tmp/evil.json")
    ]
    listing.write_text(json.dumps([*evil, *entries]))
    assert temperature(revisions.fetch("release", str(repository.folder))) == 2.0
    assert not list(tmp_path.rglob("evil.json"))


def test_two_versions_answer_side_by_side(repository, tmp_path):
    arguments = ("--rev", "release", "--compare", repository.first, "--repo", str(repository.folder))
    cell = png(bundles.drawn_cells()[0][0])
    with app_server.start(*arguments, log=tmp_path / "log") as server:
        assert requests.get(f"{server.url}/version").json()["version"] == "release"
        said = requests.post(f"{server.url}/classify", data=cell).json()
        other = f"{repository.first}:models/pretrained"
        assert (said["model"], said["compared"]["model"]) == ("release", other)
        # The release has a temperature of 2, so its probabilities are closer to 0.5.
        assert abs(said["p_parasitized"] - 0.5) < abs(said["compared"]["p_parasitized"] - 0.5)
        path = server.upload(("cell.png", cell))[0]
        _, batch = server.answer("classify_batch", [{"path": path}], 0.5)
        assert batch[0]["rows"][0]["p_parasitized"] == pytest.approx(said["p_parasitized"])
        assert batch[0]["compared"]["rows"][0]["p_parasitized"] == pytest.approx(
            said["compared"]["p_parasitized"]
        )
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        _, shown = server.answer("show_cells", [file], 0, False)
        page = json.dumps(shown)
        assert page.count("mc-headline") == 2
        assert other in page


def test_a_bundle_of_an_unknown_schema_stops_the_start_with_one_sentence(tmp_path):
    git("init", "-q", ".", cwd=tmp_path)
    folder = bundles.violet(tmp_path / "models/pretrained")
    (folder / bundle.RECORD).write_text('{"schema_version": 99}')
    commit(tmp_path, "from the future")
    done = subprocess.run(
        [sys.executable, "-m", "app", "--rev", "HEAD", "--repo", str(tmp_path)],
        cwd=app_server.ROOT, capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 1
    assert "is of an unknown schema or damaged" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_versions_of_the_same_name_are_told_apart_by_their_network(model_bundle):
    model = open_model(model_bundle)
    hashed = model.record.hashes["network"][:8]
    titles = [one.title for one in with_distinct_titles(model, model)]
    assert titles == [f"network {hashed} (network {hashed})"] * 2
