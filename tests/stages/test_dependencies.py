"""Dependencies in dvc.yaml, against the imports: a stage depends on the code that makes its result only."""

import ast
import re
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path
from typing import get_args

import pytest
import yaml

from malaria import params
from malaria.bundle.build import CODE
from tests.support.project import ROOT

SOURCES = get_args(params.Data.model_fields["source"].annotation)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# Code that stages run but do not depend on, with the reason. If a change here falsifies a result on purpose,
# the gate finds it, because it runs the stages again.
PLUMBING = {
    "malaria/__init__.py": "holds a version number and a sentence, which results only carry",
    "malaria/command.py": "starts and ends a command: --help, errors in one sentence, the lock of a stage",
    "malaria/errors.py": "names the one kind of error that people can correct",
    "malaria/files.py": "writes what it is given, whole or not at all, and hashes files",
    "malaria/params.py": "reads and checks params.yaml, whose values are dependencies themselves",
    "malaria/paths.py": "says where files lie, which dvc.yaml says too",
    "malaria/processes.py": "shares work among processes: any number of them gives the same results in order",
    "malaria/programs.py": "says where DVC's cache lies, to see whether results fit into it",
    "malaria/running.py": "ends a stage with the DVC that started it, and holds locks",
    "malaria/tables.py": "reads and writes tables, and refuses those with other columns",
    "stages/__init__.py": "stops where `python` is another than the project's",
    "malaria/templates.py": "fills in templates, which are dependencies themselves",
}


def dependencies(stage: str, suffix: str) -> set[str]:
    """The project's files with this suffix among a stage's dependencies, including those in folders."""
    code = [ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith(("malaria/", "stages/"))]
    files = [file for path in code for file in ([path] if path.is_file() else path.rglob("*"))]
    return {str(file.relative_to(ROOT)) for file in files if file.suffix == suffix and does_something(file)}


@cache
def runs(stage: str) -> frozenset[str]:
    """The project's modules that a stage imports, directly or indirectly, also inside functions.

    For `fetch` these include every source of cells, because the parameters choose one.
    """
    finder = ModuleFinder([str(ROOT)])
    finder.import_hook(f"stages.{stage}")
    if stage == "fetch":
        for source in SOURCES:
            finder.import_hook(f"malaria.fetch.{source}")
    files = {Path(module.__file__) for module in finder.modules.values() if module.__file__}
    return frozenset(str(file.relative_to(ROOT)) for file in files if does_something(file))


def does_something(file: Path) -> bool:
    """False for a Python module that holds at most a docstring, True for any other file."""
    return file.suffix != ".py" or any(
        not isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body
    )


@pytest.mark.parametrize("stage", STAGES)
def test_code_that_a_stage_runs_is_a_dependency_or_plumbing(stage):
    unlisted = runs(stage) - dependencies(stage, ".py") - set(PLUMBING)
    assert unlisted == set(), f"dvc.yaml: {stage} runs these: name them there, or as plumbing with a reason"


@pytest.mark.parametrize("stage", STAGES)
def test_code_that_a_stage_does_not_run_is_no_dependency(stage):
    # A bundle's record has a hash of this code: what trained the network, and what the bundle runs.
    code = {f"malaria/{room}/{module}.py" for room, modules in CODE.items() for module in modules}
    hashed = code if stage == "export" else set()
    assert dependencies(stage, ".py") - runs(stage) - hashed == set()


@pytest.mark.parametrize("stage", STAGES)
def test_plumbing_is_no_dependency(stage):
    assert dependencies(stage, ".py") & set(PLUMBING) == set()


def test_what_is_listed_as_plumbing_is_run():
    assert set(PLUMBING) <= set().union(*map(runs, STAGES))


@pytest.mark.parametrize("stage", STAGES)
def test_templates_that_a_stage_fills_in_are_dependencies(stage):
    used = {
        str(Path(module).with_name(name))
        for module in runs(stage)
        for name in re.findall(r'"([\w.]+\.j2)"', (ROOT / module).read_text())
    }
    assert dependencies(stage, ".j2") == used


def test_sources_alone_are_chosen_at_run_time_and_each_is_a_dependency():
    choosing = {
        module
        for stage in STAGES
        for module in runs(stage)
        if "import_module(" in (ROOT / module).read_text()
    }
    assert choosing == {"malaria/fetch/sources.py"}
    assert {f"malaria/fetch/{source}.py" for source in SOURCES} <= set(STAGES["fetch"]["deps"])


def test_an_import_inside_a_function_is_seen():
    assert "malaria/train/network.py" in runs("train")
