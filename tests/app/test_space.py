"""The Hugging Face Space that `make space` writes, started as the Hub starts it."""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from huggingface_hub import RepoCard
from packaging.requirements import Requirement

from benchmarks import serving
from malaria import labels
from tests.conftest import ROOT
from tests.support import project

SPACE = ROOT / "app/space"
HOST = "someone-malaria-cells.hf.space"


def pins(file: Path) -> dict[str, set[str]]:
    """The version specifiers of each package in a requirements file."""
    found: dict[str, set[str]] = {}
    for line in file.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            one = Requirement(line.removesuffix(" \\"))
            found.setdefault(one.name, set()).add(str(one.specifier))
    return found


def test_the_space_installs_what_is_locked_but_a_pillow_that_gradio_admits():
    space, locked = pins(SPACE / "requirements.txt"), pins(ROOT / "requirements-app.lock")
    named = importlib.metadata.requires("gradio") or ()
    admits = Requirement(next(one for one in named if one.startswith("pillow")))
    (pillow,) = space.pop("pillow")
    assert pillow.removeprefix("==") in admits.specifier
    # Only packages in both files: the Space's also lists some for Windows, which the lock file has not.
    assert {name for name in space.keys() & locked.keys() if space[name] - locked[name]} == set()


def test_the_front_matter_names_the_locked_gradio():
    card = RepoCard.load(SPACE / "README.md", ignore_metadata_errors=False).data.to_dict()
    assert pins(ROOT / "requirements-app.lock")["gradio"] == {f"=={card['sdk_version']}"}
    assert (card["sdk"], card["license"]) == ("gradio", "mit")
    assert (SPACE / card["app_file"]).is_file()
    assert len(card["short_description"]) <= 60


@pytest.mark.long
def test_the_space_answers_as_the_hub_starts_it(packaged, tmp_path, pngs):
    source, space = tmp_path / "source", tmp_path / "source/build/space"
    shutil.copytree(packaged, source)
    project.run("make", "space", "OWNER=someone", "-o", "package", cwd=source)
    assert "spaces/someone/malaria-cells" in (space / "README.md").read_text()
    uv, environment = Path(sys.executable).with_name("uv"), tmp_path / "environment"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, environment], check=True)
    python = environment / "bin/python"
    install = [uv, "pip", "install", "-q", "--no-config", "--no-deps", "--python", python]
    subprocess.run([*install, "-r", space / "requirements.txt"], check=True)
    variables = {"PATH": "/usr/bin:/bin", "GRADIO_SERVER_PORT": "0", "SPACE_HOST": HOST}
    with serving.start(log=tmp_path / "log", command=[python, "app.py"], cwd=space, env=variables) as server:
        page = requests.get(server.url, headers={"Host": HOST}, timeout=30)
        answer = requests.post(f"{server.url}/classify", data=pngs[0], headers={"Host": HOST}, timeout=30)
    assert "frame-ancestors https://huggingface.co" in page.headers["content-security-policy"]
    assert "Research use only" in page.text
    assert answer.json()["category"] in {*labels.LABELS, None}
