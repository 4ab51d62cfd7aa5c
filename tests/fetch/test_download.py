"""Downloads from a local server: resuming, retries, checks, and errors of one sentence."""

import hashlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from malaria.errors import UserError
from malaria.fetch import download
from tests.support.servers import answer, change, corrupt, redirect, serving, stall, truncate

CONTENT = bytes(range(256)) * 2000
OTHER = CONTENT[::-1]
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with serving(file=CONTENT) as running:
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """The waits before retries, in seconds, which tests record instead of waiting."""
    waited: list[float] = []
    monkeypatch.setattr(download, "sleep", waited.append)
    return waited


@pytest.fixture(autouse=True)
def two_retries(monkeypatch):
    monkeypatch.setattr(download, "RETRY", download.RETRY.new(total=2))


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "cache" / "file"


def remote(server, sha256=SHA256, size=SIZE) -> download.Remote:
    return download.url(f"{server.base}/file", "data.nlm.url", size, sha256)


def part(target: Path) -> Path:
    return target.with_name("file.part")


def test_a_file_comes_whole_and_leaves_no_part(server, target):
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT
    assert sorted(path.name for path in target.parent.iterdir()) == ["file", "file.json", "file.lock"]


@pytest.mark.parametrize("known", [SHA256, None])
def test_a_kept_download_is_used_again_without_a_request(server, target, known):
    for _ in range(2):
        download.fetch(remote(server, known), target)
    assert len(server.asked) == 1


@pytest.mark.parametrize("known", [SHA256, None])
def test_a_kept_download_that_has_changed_on_disk_is_brought_anew(server, target, known):
    download.fetch(remote(server, known), target)
    target.write_bytes(OTHER)
    download.fetch(remote(server, known), target)
    assert target.read_bytes() == CONTENT


def test_a_broken_off_download_goes_on_with_the_rest(server, target, waits):
    server.faults += [truncate(200_000), truncate(100_000)]
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT
    ranges = [asked.headers.get("range") for asked in server.asked]
    assert ranges[0] is None
    assert all(wanted and wanted != "bytes=0-" for wanted in ranges[1:])
    assert all("if-range" in asked.headers for asked in server.asked[1:])
    assert len(waits) == 2


def test_the_next_run_goes_on_where_the_last_one_gave_up(server, target):
    server.faults += [truncate(300_000), answer(503), answer(503), answer(503)]
    with pytest.raises(UserError, match=r"answers 503 .*bytes are kept, and the next run goes on from there"):
        download.fetch(remote(server), target)
    assert not target.exists()
    have = part(target).stat().st_size
    assert have > 0
    download.fetch(remote(server), target)
    assert server.asked[-1].headers["range"] == f"bytes={have}-"
    assert target.read_bytes() == CONTENT


def test_attempts_count_only_while_nothing_comes(server, target):
    server.faults += [truncate(100_000)] * 4
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("known", [SHA256, None])
def test_a_file_that_changes_between_two_ranges_is_begun_anew(server, target, known):
    server.files["/file"] = OTHER
    server.faults += [truncate(300_000), change(CONTENT)]
    download.fetch(remote(server, known), target)
    assert target.read_bytes() == CONTENT


def test_a_file_that_changes_between_two_runs_is_begun_anew(server, target):
    server.files["/file"] = OTHER
    server.faults += [truncate(300_000), answer(500), answer(500), answer(500)]
    with pytest.raises(UserError, match="answers 500"):
        download.fetch(remote(server), target)
    server.files["/file"] = CONTENT
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("lacking", ["ranges", "validators"])
def test_a_server_that_cannot_resume_is_asked_for_the_whole_again(server, target, lacking):
    setattr(server, lacking, False)
    server.faults.append(truncate(300_000))
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT
    assert ("range" in server.asked[1].headers) == (lacking == "ranges")


def test_a_part_of_another_file_is_not_gone_on_with(server, target):
    server.faults += [truncate(300_000), answer(500), answer(500), answer(500)]
    with pytest.raises(UserError, match="answers 500"):
        download.fetch(remote(server), target)
    server.files["/else"] = OTHER
    elsewhere = download.url(f"{server.base}/else", "data.nlm.url")
    download.fetch(elsewhere, target)
    assert "range" not in server.asked[-1].headers
    assert target.read_bytes() == OTHER


def test_a_server_that_shrank_its_file_gives_the_smaller_one(server, target):
    server.faults.append(truncate(300_000))
    server.faults.append(change(b"small"))
    download.fetch(remote(server, None, None), target)
    assert target.read_bytes() == b"small"


def test_a_length_that_is_not_told_does_not_matter(server, target):
    server.lengths = False
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT


def test_a_redirect_is_followed_with_the_range(server, target):
    server.files["/moved"] = CONTENT
    server.faults += [redirect("/moved"), truncate(300_000), redirect("/moved")]
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT
    assert (server.asked[-1].path, "range" in server.asked[-1].headers) == ("/moved", True)


def test_a_silent_server_is_left_and_asked_again(server, target, monkeypatch):
    server.faults.append(stall(300_000))
    # On a busy machine several good answers in a row may also take longer than TIMEOUT: allow more retries.
    monkeypatch.setattr(download, "RETRY", download.RETRY.new(total=1000))
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) >= 2


def test_a_damaged_transfer_is_repeated_once(server, target):
    server.faults.append(corrupt)
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT


def test_another_content_than_expected_is_refused_and_not_kept(server, target):
    server.files["/file"] = OTHER
    with pytest.raises(UserError, match="came twice with another content than expected"):
        download.fetch(remote(server), target)
    assert len(server.asked) == 2
    assert not target.exists()
    assert not part(target).exists()


def test_another_size_than_expected_is_refused_at_once(server, target):
    server.files["/file"] = b"<html>please sign in to this hotel</html>"
    with pytest.raises(UserError, match=r"has 41 bytes, but data.nlm.url expects 512,000"):
        download.fetch(remote(server), target)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "meaning"), [(401, "Unauthorized"), (403, "Forbidden"), (404, "Not Found")]
)
def test_a_refusal_is_not_asked_again(server, target, status, meaning):
    server.faults.append(answer(status))
    with pytest.raises(UserError, match=rf"answers {status} \({meaning}.*check data.nlm.url"):
        download.fetch(remote(server), target)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_fault_is_tried_again_with_longer_and_longer_waits(
    server, target, waits, status, monkeypatch
):
    monkeypatch.setattr(download, "RETRY", download.RETRY.new(total=5))
    server.faults += [answer(status)] * 6
    with pytest.raises(UserError, match=rf"localhost answers {status} .*, 6 times in a row: run again later"):
        download.fetch(remote(server), target)
    assert len(waits) == 5
    assert all(first < then for first, then in pairwise(waits))
    assert waits[-1] < download.RETRY.backoff_max


def test_the_wait_that_the_server_asks_for_is_kept(server, target, waits, monkeypatch):
    server.faults += [answer(429, Retry_After="90"), answer(503, Retry_After="Thu, 01 Jan 2015 00:00:00 GMT")]
    server.faults += [answer(429, Retry_After="soon")]
    monkeypatch.setattr(download, "RETRY", download.RETRY.new(total=3))
    download.fetch(remote(server), target)
    assert waits[0] == 90
    assert max(waits[1:]) < 10


def test_a_wait_beyond_patience_is_left_to_the_user(server, target, waits):
    server.faults.append(answer(429, Retry_After="3600"))
    with pytest.raises(UserError, match=r"asks to wait for 3600 s: run again after that"):
        download.fetch(remote(server), target)
    assert waits == []


def test_no_listener_is_said_after_all_attempts(target, waits):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://localhost:{closed.getsockname()[1]}/file"
        with pytest.raises(UserError, match=r"localhost cannot be reached .*, 3 times in a row"):
            download.fetch(download.url(address, "data.nlm.url"), target)
    assert len(waits) == 2


def test_an_unknown_name_is_said(target):
    nowhere = download.url("http://nowhere.invalid/file", "data.nlm.url")
    with pytest.raises(UserError, match=r"nowhere.invalid cannot be reached \(is this computer online\?\)"):
        download.fetch(nowhere, target)


def test_a_certificate_that_cannot_be_trusted_is_said_and_not_asked_again(tmp_path, target, waits):
    with tls_server(tmp_path) as port:
        untrusted = download.url(f"https://localhost:{port}/file", "data.nlm.url")
        with pytest.raises(UserError, match="shows a certificate that cannot be trusted"):
            download.fetch(untrusted, target)
    assert waits == []


@pytest.mark.parametrize("address", ["ftp://a/b", "a/b", "http://", "", "http://a..b/c"])
def test_what_is_no_http_address_is_refused_at_once(target, waits, address):
    with pytest.raises(UserError, match=r"data\.nlm\.url gives .*, no http address: correct"):
        download.fetch(download.url(address, "data.nlm.url"), target)
    assert waits == []


@pytest.mark.parametrize("proxy", ["socks5h://127.0.0.1:9", "http://[a", "ftp://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_said_at_once(target, waits, monkeypatch, proxy):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(UserError, match=r"correct it, or HTTPS_PROXY if that names no http proxy\.$"):
        download.fetch(download.url("http://nowhere.invalid/file", "data.nlm.url"), target)
    assert waits == []


def test_a_length_that_is_no_number_does_not_matter(server, target):
    def say(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "unknown")
        handler.end_headers()
        handler.wfile.write(CONTENT)

    server.faults.append(say)
    download.fetch(remote(server), target)
    assert target.read_bytes() == CONTENT


def test_a_full_disk_is_said_and_the_part_is_kept(server, target):
    target.parent.mkdir()
    part(target).symlink_to("/dev/full")
    with pytest.raises(
        UserError, match=r"cache cannot be written \(No space left on device\): free some disk"
    ):
        download.fetch(remote(server), target)


def test_a_file_larger_than_the_free_disk_is_refused_before_it_comes(server, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=SIZE - 1))
    with pytest.raises(UserError, match=rf"{SIZE - 1:,} bytes are free, and {SIZE:,} more are to come"):
        download.fetch(remote(server), target)
    assert part(target).stat().st_size == 0


def test_a_cache_that_cannot_be_made_is_said(server, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"choose another folder with MALARIA_CACHE or --cache-dir"):
        download.fetch(remote(server), tmp_path / "cache/file")


def test_a_second_process_waits_and_finds_the_file(server, target):
    first = threading.Event()

    def meanwhile(handler):
        first.set()
        handler.give()

    server.faults.append(meanwhile)
    others = [threading.Thread(target=download.fetch, args=(remote(server), target)) for _ in "ab"]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert first.is_set()
    assert len(server.asked) == 1
    assert target.read_bytes() == CONTENT


def test_the_cache_is_the_users_unless_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("MALARIA_CACHE", raising=False)
    assert download.cache_folder().name == "malaria-cells"
    monkeypatch.setenv("MALARIA_CACHE", str(tmp_path / "mine"))
    assert download.cache_folder() == tmp_path / "mine"
    assert download.cache_folder(tmp_path / "other") == tmp_path / "other"


def test_the_progress_bar_tells_rate_and_time_left(server, target):
    program = (
        "import sys; from pathlib import Path; from malaria.fetch import download; "
        "sys.stderr.isatty = lambda: True; "
        f"download.fetch(download.url('{server.base}/file', 'x'), Path(r'{target}'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "500k/500k" in done.stderr
    assert "B/s" in done.stderr
    assert "<" in done.stderr


@contextmanager
def tls_server(folder: Path):
    """Run a server with a self-signed certificate; yields its port."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.handle_error = lambda *_: None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
