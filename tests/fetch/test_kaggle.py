"""Source `kaggle`: Kaggle's own client with a local stand-in for Kaggle, at the client's TEST address."""

import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import pytest

from benchmarks import fake_archive
from malaria.errors import UserError
from malaria.fetch import download, kaggle, nih
from tests.support.servers import answer, redirect, serving, truncate

ROOT = Path(__file__).parents[2]
CENSUS = nih.Census(cells=12, infected=3, controls=2)
# The port that Kaggle's client uses if KAGGLE_API_ENVIRONMENT is TEST.
PORT = 7777
KEY = '{"username": "u", "key": "k"}'
CANARY = "canary-5f0c1d"
CALL = "/api/v1/datasets.DatasetApiService/DownloadDataset"


@pytest.fixture
def archive(tmp_path) -> bytes:
    fake_archive.write_archive(tmp_path / "kaggle.zip", CENSUS, twice=True)
    return (tmp_path / "kaggle.zip").read_bytes()


@pytest.fixture
def server(archive):
    """A stand-in for Kaggle that redirects each call to a signed address.

    A lock lets one test process at a time use its port.
    """
    lock = Path(tempfile.gettempdir(), f"port-{PORT}.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with serving(PORT, **{"storage.zip": archive}) as running:
            running.posts += [redirect(f"/storage.zip?signature={CANARY}")] * 9
            yield running


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path) -> Path:
    """A home without credentials, and no credentials in the environment."""
    for name in (
        "KAGGLE_API_TOKEN",
        "KAGGLE_USERNAME",
        "KAGGLE_KEY",
        "KAGGLE_KERNEL_RUN_TYPE",
        "KAGGLE_CONFIG_DIR",
        "XDG_CONFIG_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/.kaggle").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def signed_in(monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", CANARY)


@pytest.fixture
def fetch(data, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRY", download.RETRY.new(total=1, backoff_factor=0))
    return lambda: kaggle.fetch(data, tmp_path / "raw", tmp_path / "cache", CENSUS)


@pytest.mark.usefixtures("server", "signed_in")
def test_the_doubled_archive_gives_each_cell_once_and_hash_for_hash_those_of_the_nlm(fetch, tmp_path):
    provenance = fetch()
    fake_archive.write_archive(tmp_path / "nlm.zip", CENSUS)
    assert provenance.checksum == nih.unpack(tmp_path / "nlm.zip", tmp_path / "nlm", CENSUS).checksum
    assert provenance.cells == 24
    assert provenance.ignored == (
        "2 files that file browsers leave behind",
        "2 further folders with the names of the class folders, deeper down",
    )
    found = {path.relative_to(tmp_path / "raw"): path.read_bytes() for path in tmp_path.glob("raw/*/*")}
    assert found == {
        path.relative_to(tmp_path / "nlm"): path.read_bytes() for path in tmp_path.glob("nlm/*/*")
    }


@pytest.mark.usefixtures("signed_in")
def test_slug_and_version_are_what_is_asked_for(fetch, server):
    fetch()
    call = server.asked[0]
    assert (call.method, call.path) == ("POST", CALL)
    assert json.loads(call.body) == {
        "ownerSlug": "iarunava",
        "datasetSlug": "cell-images-for-detecting-malaria",
        "datasetVersionNumber": 1,
    }


@pytest.mark.usefixtures("signed_in")
def test_a_second_fetch_asks_for_nothing(fetch, server, monkeypatch):
    first = fetch()
    asked = len(server.asked)
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert fetch() == first
    assert len(server.asked) == asked


@pytest.mark.usefixtures("signed_in")
def test_a_broken_off_download_goes_on_at_a_newly_signed_address(fetch, server, archive):
    server.files["/storage.zip"] = content = bytes(300_000) + archive
    server.posts[:] = [redirect("/storage.zip?signature=1"), redirect("/storage.zip?signature=2")]
    # Kaggle's client opens each address itself; that answer is closed unread.
    server.faults += [truncate(0), truncate(len(content) * 2 // 3)]
    assert fetch().cells == 24
    assert server.asked[-1].path == "/storage.zip?signature=2"
    assert re.fullmatch(r"bytes=[1-9]\d*-", server.asked[-1].headers["range"])


@pytest.mark.parametrize(
    ("name", "content", "sent"),
    [
        (".kaggle/access_token", "t", "Bearer t"),
        (".kaggle/kaggle.json", KEY, "Basic dTpr"),
        (".config/kaggle/kaggle.json", KEY, "Basic dTpr"),
        ("named/kaggle.json", KEY, "Basic dTpr"),
        (
            ".kaggle/credentials.json",
            json.dumps(
                {"refresh_token": "r", "access_token": "a", "access_token_expiration": "2999-01-01T00Z"}
            ),
            "Bearer a",
        ),
    ],
)
def test_credentials_are_read_where_kaggles_command_keeps_them(
    fetch, server, home, monkeypatch, name, content, sent
):
    (home / ".kaggle").rmdir()
    (home / name).parent.mkdir(parents=True)
    (home / name).write_text(content)
    if name.startswith("named"):
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / "named"))
    fetch()
    assert server.asked[0].headers["authorization"] == sent


def test_user_and_key_may_stand_in_the_environment(fetch, server, monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", "u")
    monkeypatch.setenv("KAGGLE_KEY", "k")
    fetch()
    assert server.asked[0].headers["authorization"] == "Basic dTpr"


def test_not_being_signed_in_is_said_without_a_request(fetch, server):
    with pytest.raises(UserError, match=r"you are not signed in: create a token .*data.source: nlm"):
        fetch()
    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, r"does not accept the credentials \(401\): create a token"),
        (403, r"forbids the download \(403\): open kaggle.com/datasets/iarunava/.* accept its rules"),
        (404, r"has no version 1 of iarunava/.* \(404\): check data.kaggle"),
        (400, r"localhost answers 400 .*check data.kaggle"),
        (429, r"localhost answers 429 \(Too Many Requests\), 2 times in a row: run again later"),
        (500, r"localhost answers 500 .*, 2 times in a row: run again later"),
        (503, r"localhost answers 503 .*, 2 times in a row: run again later"),
    ],
)
@pytest.mark.usefixtures("signed_in")
def test_a_refusal_is_one_sentence_with_what_to_do(fetch, server, status, sentence, capfd):
    server.posts[:] = [answer(status)] * 2
    with pytest.raises(UserError, match=sentence) as refused:
        fetch()
    assert "\n" not in str(refused.value)
    assert len(server.asked) == (2 if status in (429, 500, 503) else 1)
    assert_hidden(refused, capfd)


@pytest.mark.usefixtures("signed_in")
def test_kaggle_saying_so_in_json_is_the_same(fetch, server):
    server.posts[:] = [
        lambda handler: handler.fail(403, '{"code": 403, "message": "no"}', Content_Type="application/json")
    ]
    with pytest.raises(UserError, match="forbids the download"):
        fetch()


@pytest.mark.usefixtures("signed_in")
def test_no_network_is_one_sentence(fetch, capfd):
    with pytest.raises(UserError, match=r"localhost cannot be reached .*, 2 times in a row") as refused:
        fetch()
    assert_hidden(refused, capfd)


@pytest.mark.parametrize("token", [CANARY * 400, f"{CANARY}\n{CANARY}", f"{CANARY}\N{SNOWMAN}"])
@pytest.mark.usefixtures("server")
def test_a_token_that_breaks_the_client_is_not_quoted(fetch, monkeypatch, token, capfd):
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    with pytest.raises(
        UserError, match=r"Kaggle's client fails over data.kaggle or the credentials"
    ) as refused:
        fetch()
    assert_hidden(refused, capfd)


@pytest.mark.usefixtures("signed_in")
def test_a_refusal_by_the_storage_hides_its_signature(fetch, server, capfd):
    server.faults += [lambda handler: handler.give(), answer(403)]
    with pytest.raises(UserError, match="localhost answers 403") as refused:
        fetch()
    assert_hidden(refused, capfd)


@pytest.mark.usefixtures("signed_in")
def test_an_archive_of_no_use_is_not_kept(fetch, server):
    good = server.files["/storage.zip"]
    server.files["/storage.zip"] = good[: len(good) // 2]
    with pytest.raises(UserError, match=r"is not the whole|damaged"):
        fetch()
    server.files["/storage.zip"] = good
    assert fetch().cells == 24


@pytest.mark.usefixtures("signed_in")
def test_a_full_disk_costs_no_second_download(fetch, server):
    fetch()
    asked = len(server.asked)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be unpacked \(File too large\): free some disk"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert fetch().cells == 24
    assert len(server.asked) == asked


@pytest.mark.usefixtures("signed_in")
def test_nothing_that_is_kept_holds_a_credential(fetch, server, tmp_path, capfd):
    server.faults.append(lambda handler: handler.give())
    provenance = fetch()
    assert CANARY not in repr(provenance)
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "kaggle.zip"]
    assert len(kept) > 24
    assert not [path for path in kept if CANARY.encode() in path.read_bytes()]
    assert CANARY not in "".join(capfd.readouterr())


def test_the_client_is_not_imported_for_other_sources():
    program = "import sys; from malaria.fetch import kaggle; print('kagglesdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def dvc(repository: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.usefixtures("signed_in")
def test_dvc_repro_brings_the_whole_set_keeps_no_credential_and_then_leaves_the_network_alone(
    server, tmp_path, monkeypatch
):
    fake_archive.write_archive(tmp_path / "whole.zip", twice=True)
    server.files["/storage.zip"] = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "whole.zip").unlink()
    monkeypatch.setenv("MALARIA_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "repository"
    for name in ("malaria", "stages", "data/folder"):
        shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "data/split.csv", "data/doubtful.csv"):
        shutil.copy(ROOT / name, repository / name)
    text = (ROOT / "params.yaml").read_text().replace("source: sample", "source: kaggle", 1)
    (repository / "params.yaml").write_text(text)
    dvc(repository, "init", "--no-scm")

    said = dvc(repository, "repro", "fetch")
    assert "27,558 cells from https://www.kaggle.com/datasets/iarunava" in said
    assert len(list((repository / "data/raw/Parasitized").iterdir())) == 13_779
    asked = len(server.asked)
    said += dvc(repository, "repro", "fetch")
    assert "Running stage" not in said.partition("Stage 'fetch' didn't change")[2]
    assert len(server.asked) == asked

    assert CANARY not in said
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".png"]
    assert {"dvc.lock", "provenance.json"} <= {path.name for path in kept}
    assert not [path for path in kept if CANARY.encode() in path.read_bytes()]


def test_the_stage_says_a_refusal_in_one_line_without_a_traceback(server, tmp_path):
    server.posts[:] = [answer(403)]
    text = (ROOT / "params.yaml").read_text().replace("source: sample", "source: kaggle", 1)
    (tmp_path / "params.yaml").write_text(text)
    environment = {**os.environ, "KAGGLE_API_TOKEN": CANARY, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.fetch", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Kaggle forbids the download (403): open kaggle.com/datasets/")
    assert done.stderr.count("\n") == 1
    assert CANARY not in done.stdout + done.stderr


def assert_hidden(refused, capfd) -> None:
    """Assert that neither the error, its traceback nor the output quotes a credential."""
    told = "".join(traceback.format_exception(refused.value)) + "".join(capfd.readouterr())
    assert CANARY not in told
    assert hashlib.sha256(CANARY.encode()).hexdigest() not in told
