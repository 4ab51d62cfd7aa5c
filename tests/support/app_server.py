"""Start `python -m app` as a separate process, for tests that use it as a visitor does."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from benchmarks import serving

ROOT = Path(__file__).resolve().parents[2]

# Files of Gradio that reject values which none of its components could have sent.
_GRADIO_REFUSES = re.compile(r" at (blocks|radio)\.py:")


class Server(serving.Server):
    """A running app, with requests as a visitor sends them."""

    def logged(self) -> list[dict[str, Any]]:
        """The app's log so far, without lines that are no JSON, which come from libraries."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def upload(self, *files: tuple[str, bytes]) -> list[str]:
        """Upload named files as the page does; return the paths by which the app knows them."""
        parts = [("files", (name, content)) for name, content in files]
        response = requests.post(f"{self.url}/gradio_api/upload", files=parts, timeout=30)
        assert response.status_code == 200, response.text
        paths: list[str] = response.json()
        return paths

    def call(self, name: str, *data: Any) -> requests.Response:
        """Call an endpoint without gradio_client, which would upload the file that a path names."""
        return requests.post(f"{self.url}/gradio_api/call/{name}", json={"data": data}, timeout=30)

    def answer(self, name: str, *data: Any) -> tuple[str, Any]:
        """Call an endpoint; return the event that the call ends with, and its data."""
        response = self.call(name, *data)
        assert response.status_code == 200, response.text
        event = response.json()["event_id"]
        stream = requests.get(f"{self.url}/gradio_api/call/{name}/{event}", timeout=30).text
        kind, content = stream.strip().splitlines()[-2:]
        return kind.removeprefix("event: "), json.loads(content.removeprefix("data: "))


@contextlib.contextmanager
def start(*arguments: str, log: Path) -> Iterator[Server]:
    """Run the app on a free port while the block runs; AssertionError if it had `faults`."""
    with serving.start(*arguments, log=log) as app:
        server = Server(app.url, app.process, app.log)
        yield server
        logged_faults = faults(server)
        assert not logged_faults, logged_faults


def faults(server: Server) -> list[object]:
    """What a server has logged and never should: tracebacks, errors, and a status of 5xx other than 503."""
    lines: list[object] = [
        line
        for line in server.logged()
        # 503 is no fault: the queue is full, or the server is about to end.
        if (line.get("status", 0) >= 500 and line["status"] != 503)
        or (line["level"] == "error" and not _GRADIO_REFUSES.search(line.get("error", "")))
    ]
    return lines + (["Traceback"] if "Traceback" in server.log.read_text() else [])
