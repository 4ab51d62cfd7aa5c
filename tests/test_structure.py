"""The structure of the repository: README, docs and Makefile agree with the folders and imports."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from app.__main__ import parser
from tests.conftest import ROOT

ROOMS = ("malaria", "stages", "app", "ci", "remote", "experiments", "benchmarks", "orchestration")
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*  #[#+] ", MAKEFILE, re.MULTILINE))


def may_import() -> dict[str, set[str]]:
    """The packages that each package may import, by the layers that import-linter checks."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.findall("[a-z]+", layer) for layer in contracts[0]["layers"]]
    return {
        room: {room}.union(*layers[number + 1 :]) for number, layer in enumerate(layers) for room in layer
    }


def named(module: Path) -> set[str]:
    """The project's packages whose modules a file names in a string, such as "ci.gate" to run it."""
    texts = (node.value for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Constant))
    pattern = rf"({'|'.join((*ROOMS, 'tests'))})(\.\w+)+"
    found = (re.fullmatch(pattern, text) for text in texts if isinstance(text, str))
    return {match[1] for match in found if match}


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_starts_as_a_process_is_what_it_may_import(room):
    allowed = may_import()[room]
    arrows = {(str(file), other) for file in (ROOT / room).rglob("*.py") for other in named(file)}
    assert {arrow for arrow in arrows if arrow[1] not in allowed} == set()


def test_the_tree_in_the_readme_is_the_tree():
    block = (ROOT / "README.md").read_text().partition("```text\n")[2].partition("```")[0]
    shown, above = set(), ""
    for line in block.splitlines():
        for name in re.findall(r"[\w./]+/(?= |$)", line[:23]):
            shown.add(f"{above}{name}" if line.startswith("  ") else name)
            above = above if line.startswith("  ") else name
    rooms = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    parts = {f"malaria/{path.parent.name}/" for path in (ROOT / "malaria").glob("*/__init__.py")}
    tracked = {name for name in rooms if name not in ("node_modules/", "dvc_plots/", "build/")}
    assert {name.partition("/")[0] for name in shown} == {name.rstrip("/") for name in tracked}
    assert {name for name in shown if name.startswith("malaria/") and name != "malaria/"} == parts


def test_make_clean_removes_what_the_stages_make_and_keeps_what_git_has():
    asked = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True)
    removed = set(asked.stdout.split())
    made, in_git = set(), set()
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values():
        for out in [*stage["outs"], *stage.get("metrics", [])]:
            (made if isinstance(out, str) else in_git).add(out if isinstance(out, str) else next(iter(out)))
    assert made <= removed
    assert in_git.isdisjoint(removed)


def test_docs_list_every_make_target():
    table = (ROOT / "docs/structure.md").read_text().partition("## Every make target")[2]
    assert set(re.findall(r"^\| `make ([a-z-]+)", table, re.MULTILINE)) == TARGETS


def test_pages_name_only_targets_and_pages_that_exist():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        assert (
            set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b(?=[` \n])", "\n".join(commands(text)))) <= TARGETS
        ), page
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
            assert (page.parent / link).exists(), (page.name, link)


def commands(text: str) -> list[str]:
    """The code of a page: its `sh` blocks, and its inline code between backticks."""
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)


def test_make_help_shows_at_most_fifteen_targets():
    assert len(re.findall(r"^[a-z-]+:.*  ## ", MAKEFILE, re.MULTILINE)) <= 15


def test_the_dev_container_has_the_python_that_makes_all_bytes_and_opens_the_app_s_port():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert f"python:{(ROOT / '.python-version').read_text().strip()}-" in container["image"]
    assert container["forwardPorts"] == [parser().get_default("port")]


def test_pre_commit_runs_what_make_lint_runs():
    config = ROOT / ".pre-commit-config.yaml"
    command = [Path(sys.executable).with_name("pre-commit"), "validate-config", config]
    assert subprocess.run(command, check=False).returncode == 0
    hooks = {
        hook["entry"].split()[0]
        for repo in yaml.safe_load(config.read_text())["repos"]
        for hook in repo["hooks"]
    }
    lint = MAKEFILE.partition("\nlint:")[2].partition("\n\n")[0]
    tools = {line.split()[0] for line in lint.splitlines()[1:]}
    assert {tool for tool in tools if not tool.startswith("node_modules/")} <= hooks
