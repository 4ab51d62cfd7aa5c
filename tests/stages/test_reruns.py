"""The stages that a change reruns: each row of the table in docs/reruns.md, by the real `dvc status`."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from tests.support.project import ROOT, change, run

STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def rows() -> dict[str, tuple[set[str], set[str]]]:
    """The table of docs/reruns.md: {code of the row: (stages that rerun at once, stages that may follow)}."""
    page = (ROOT / "docs/reruns.md").read_text()
    header, _, *lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    stages = [name.strip() for name in header[1:]]
    marked = {re.search("`(.+?)`", what)[1]: [mark.strip() for mark in marks] for what, *marks in lines}
    return {
        what: tuple(
            {stage for stage, mark in zip(stages, marks, strict=True) if mark == sign} for sign in "●○"
        )
        for what, marks in marked.items()
    }


def parameter(name: str, value: object) -> Callable[[Path], None]:
    return lambda repository: change(repository, {name: value})


def line(file: str, content: str) -> Callable[[Path], None]:
    def add(repository: Path) -> None:
        path = repository / file
        path.write_text((path.read_text() if path.exists() else "") + content)

    return add


def without_a_plot(repository: Path) -> None:
    content = yaml.safe_load((repository / "dvc.yaml").read_text())
    content["plots"].pop()
    (repository / "dvc.yaml").write_text(yaml.safe_dump(content))


CHANGES = {
    "data.*": parameter("data.sample.seed", 2),
    "data.source": parameter("data.source", "folder"),
    "data.classes": parameter("data.classes", {"infected": "Parasitized"}),
    "data.fields.*": parameter("data.fields.complete", True),
    "data/folder": line("data/folder/new.txt", "x"),
    "audit.max_quarantined": parameter("audit.max_quarantined", 0.5),
    "audit.min_side": parameter("audit.min_side", 20),
    "audit.max_pixels": parameter("audit.max_pixels", 9_000_000),
    "split.*": parameter("split.seed", 2),
    "data/split.csv": line("data/split.csv", "P1,train\n"),
    "pack.colour": parameter("pack.colour", "as-is"),
    "pack.*": parameter("pack.size", 40),
    "laboratories.*": parameter("laboratories.leave_out", ["chula"]),
    "data/others": line("data/others/new.txt", "x"),
    "data/start": line("data/start/new.txt", "x"),
    "train.threads": parameter("train.threads", 1),
    "train.*": parameter("train.epochs", 3),
    "data/doubtful.csv": line("data/doubtful.csv", "Uninfected,cell.png\n"),
    "evaluate.specificities": parameter("evaluate.specificities", [0.9]),
    "evaluate.*": parameter("evaluate.bins", 10),
    "export.*": parameter("export.precision", "float16"),
    "external.*": parameter("external.folder", "data/others"),
    "data/external": line("data/external/new.txt", "x"),
    "gate.*": parameter("gate.max_ece", 0.5),
    "plots": without_a_plot,
}


def test_the_table_has_a_row_for_each_section_of_the_parameters():
    assert set(rows()) == set(CHANGES)
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert set(sections) == {name.partition(".")[0] for name in rows() if "." in name and "/" not in name}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_reruns_what_the_table_says(repository, what):
    CHANGES[what](repository)
    with contextlib.chdir(repository), Repo() as repo:
        assert set(repo.status()) == rows()[what][0]


@pytest.mark.parametrize("what", rows())
def test_what_may_follow_is_what_takes_in_the_results_of_these_stages(what):
    first, then = rows()[what]
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    makes = {
        name: {
            next(iter(out)) if isinstance(out, dict) else out
            for kind in ("outs", "metrics")
            for out in stage.get(kind, [])
        }
        for name, stage in stages.items()
    }
    touched = set(first)
    for name in STAGES:
        if any(makes[other] & set(stages[name]["deps"]) for other in touched):
            touched.add(name)
    assert touched - first == then


def test_a_threshold_or_a_plot_retrains_nothing(repository):
    change(repository, {"evaluate.specificities": [0.9], "evaluate.bins": 10})
    said = run("dvc", "repro", "--dry", cwd=repository).stdout
    assert [name for name in STAGES if f"Running stage '{name}'" in said] == [
        "evaluate",
        "export",
        "external",
    ]
