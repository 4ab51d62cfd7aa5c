"""The package that `pip install malaria-cells` installs: its commands, app, size and metadata."""

import csv
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import requests
from PIL import Image

from app import pictures
from benchmarks import serving
from malaria import __version__, labels
from malaria.__main__ import main
from tests.conftest import ROOT
from tests.support import project

PYTHONS = ("3.11", "3.12", "3.13")
LARGEST = 3 * 2**20


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """A folder that holds only `cells/`, with 12 synthetic cells of each class."""
    folder = tmp_path_factory.mktemp("empty")
    for label in labels.LABELS:
        (folder / "cells" / label).mkdir(parents=True)
    for number, (pixels, infected) in enumerate(pictures.cells(24, seed=30)):
        Image.fromarray(pixels).save(folder / "cells" / labels.LABELS[infected] / f"{number}.png")
    return folder


@pytest.mark.long
def test_the_index_takes_wheel_and_sdist(packaged):
    dist = packaged / "dist"
    (wheel,) = dist.glob("*.whl")
    project.run("twine", "check", "--strict", *map(str, dist.iterdir()), cwd=dist)
    project.run("check-wheel-contents", str(wheel), cwd=dist)
    assert wheel.stat().st_size < LARGEST


@pytest.fixture(scope="module", params=PYTHONS)
def installed(request, packaged, tmp_path_factory) -> Path:
    """The `bin` folder of a fresh virtual environment with the wheel, for each Python version found."""
    uv = Path(sys.executable).with_name("uv")
    known = [uv, "python", "find", "--no-python-downloads", "--no-project", "--system", request.param]
    found = subprocess.run(known, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"there is no Python {request.param} here")
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([uv, "venv", "-q", "--clear", "--python", found.stdout.strip(), environment], check=True)
    (wheel,) = packaged.glob("dist/*.whl")
    python = environment / "bin/python"
    command = [uv, "pip", "install", "-q", "--no-config", "--python", python, f"{wheel}[app,evaluate]"]
    subprocess.run(command, check=True)
    return environment / "bin"


@pytest.mark.long
def test_in_an_empty_folder_the_installed_commands_judge_cells_without_tensorflow(installed, cells):
    def malaria(*arguments: str) -> str:
        return project.run(str(installed / "malaria"), *arguments, cwd=cells).stdout

    assert malaria("--version").strip() == __version__
    assert "malaria app" in malaria("app", "--help")
    rows = list(csv.DictReader(malaria("predict", "cells").splitlines()))
    assert len(rows) == 24
    assert {row["status"] for row in rows} <= {"ok", "rejected"}
    assert "AUC" in malaria("evaluate", "cells")
    tensorflow = "import importlib.util; print(importlib.util.find_spec('tensorflow'))"
    assert project.run(str(installed / "python"), "-c", tensorflow, cwd=cells).stdout == "None\n"


@pytest.mark.long
def test_in_an_empty_folder_the_installed_app_answers(installed, cells, tmp_path):
    cell = (cells / "cells" / labels.PARASITIZED / "0.png").read_bytes()
    command = [installed / "malaria", "app", "--port", "0"]
    with serving.start(log=tmp_path / "log", command=command, cwd=cells) as server:
        assert "Research use only" in requests.get(server.url, timeout=30).text
        answer = requests.post(f"{server.url}/classify", data=cell, timeout=30)
    assert answer.json()["category"] in labels.LABELS


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_help_ends_with_an_example_that_is_a_command(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["malaria", command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert f"malaria {command} " in capsys.readouterr().out.partition("example:")[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_learns_to_complete_the_commands(shell, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["malaria", "--print-completion", shell])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "--operating-point" in capsys.readouterr().out


def test_the_citation_and_the_changelog_name_the_version():
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__} (" in (ROOT / "CHANGELOG.md").read_text()


def test_every_room_of_the_library_is_in_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {f"malaria.{file.parent.name}" for file in (ROOT / "malaria").glob("*/__init__.py")}
    assert rooms <= set(packages)
