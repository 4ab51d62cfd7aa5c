"""The Makefile's targets: each is told of, and they do what they say."""

import os
import re

import pytest

from tests.conftest import ROOT
from tests.support.project import run

TARGETS = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("target", sorted({*TARGETS} - {"help"}))
def test_every_target_stands_in_the_readme_or_the_docs(target):
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(re.search(rf"\bmake {target}(?![a-z-])", page.read_text()) for page in pages)


def airflow(*variables: str, **environment: str) -> str:
    return run(
        "make", "-n", "airflow", *variables, cwd=ROOT, environment={**os.environ, **environment}
    ).stdout


def test_airflow_takes_its_schedule_from_make_or_else_from_the_environment():
    assert "--schedule" not in airflow(MALARIA_SCHEDULE="@daily")
    assert '--schedule "0 3 * * 1"' in airflow("SCHEDULE=0 3 * * 1")


@pytest.mark.parametrize("name", ["reports/ood.csv", "reports/ci", "reports/ablation", "dvc_plots"])
def test_git_ignores_what_the_tools_leave(name):
    assert run("git", "check-ignore", f"{name}/file" if "." not in name else name, cwd=ROOT).stdout
