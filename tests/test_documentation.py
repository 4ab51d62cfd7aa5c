"""The documentation works: its code blocks and notebook run, and the site builds."""

import json
import os

import nbformat
import pytest

from docs import overview
from tests.conftest import ROOT
from tests.support import project

NOTEBOOK = ROOT / "docs/quickstart.ipynb"


@pytest.mark.long
def test_the_code_of_readme_and_docs_runs_or_says_why_not():
    command = (
        "-m",
        "pytest",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "README.md",
        "CONTRIBUTING.md",
        "docs",
    )
    done = project.run("python", *command, cwd=ROOT)
    assert " passed" in done.stdout


@pytest.mark.long
def test_the_notebook_runs(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)}
    project.run(
        "jupyter", "execute", str(NOTEBOOK), f"--output={tmp_path / 'run'}", cwd=ROOT, environment=environment
    )


def test_the_notebook_is_stored_with_what_it_shows():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(cell.outputs for cell in cells if cell.cell_type == "code")
    assert NOTEBOOK.stat().st_size < 200_000


@pytest.mark.long
def test_the_site_is_built_without_a_warning_and_knows_every_page(tmp_path):
    project.run("python", "-m", "sphinx", "-q", "-W", "docs", str(tmp_path), cwd=ROOT)
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or (tmp_path / f"{page.stem}.html").is_file()
    assert "p_parasitized" in (tmp_path / "tables.html").read_text()
    assert "label_smoothing" in (tmp_path / "parameters.html").read_text()


def test_the_readme_s_badges_are_those_that_the_command_prints():
    figures = json.loads((ROOT / "models/pretrained/figures.json").read_text())
    assert overview.badges(figures) in (ROOT / "README.md").read_text()
