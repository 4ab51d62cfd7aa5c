"""The app's documentation is true: its curl lines, Python lines and example answer work as printed."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.support import bundles
from tests.support.app_server import ROOT

DOCS = "docs/app.md"


def blocks(language: str, needed: str) -> str:
    """The code of all blocks in a language that contain the text `needed`, joined by line breaks."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / DOCS).read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(block for block in found if needed in block)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with two cells, cell.png and a.png, and cells.zip with both."""
    for name, (pixels, _) in zip(("cell.png", "a.png"), bundles.drawn_cells(), strict=False):
        Image.fromarray(pixels).save(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        for name in ("cell.png", "a.png"):
            pack.write(tmp_path / name, name)
    return tmp_path


def test_every_curl_line_is_answered(live, folder):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    lines = [line for line in blocks("sh", "curl ").splitlines() if line.startswith("curl ")]
    assert lines
    for line in lines:
        line = line.replace("http://127.0.0.1:7860", live.url).replace("curl ", "curl -sSf ")
        said = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True)
        assert json.loads(said.stdout)["note"] == "Research use only. Not a diagnosis."


def test_the_python_lines_are_answered(live, folder):
    code = blocks("python", "gradio_client").replace("http://127.0.0.1:7860", live.url)
    assert "/classify" in code
    subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)


def test_the_example_answer_has_the_fields_of_a_real_one(live, folder):
    import requests

    said = requests.post(f"{live.url}/classify", data=(folder / "cell.png").read_bytes()).json()
    shown = json.loads(blocks("json", "p_parasitized"))
    assert list(shown) == list(said)
