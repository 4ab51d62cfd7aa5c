"""Adding own cells: the next run trains on old and new cells, and no patient changes sides."""

import json
import os
import shutil
import sys

import pandas as pd
import pytest

from malaria import paths
from malaria.cells import names
from tests.support.project import SMALL, change, commit, copy, git, run, start

pytestmark = pytest.mark.long


@pytest.fixture
def lab(once, raw, tmp_path):
    """A laboratory's repository with cells of five patients, and with the results of `split` committed."""

    def make(repository):
        start(repository, SMALL | {"data.source": "folder", "split.tolerance": 0.3})
        add(raw, repository, {"P1", "P2", "P3", "P4", "P5"})
        run("dvc", "repro", "split", cwd=repository)
        commit(repository, "five patients")

    return copy(once("lab", make), tmp_path / "lab")


def add(raw, repository, patients):
    for file in raw.rglob("*.png"):
        if names.parse(file.name).patient in patients:
            target = repository / "data/folder" / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


def sides(repository):
    return pd.read_csv(repository / paths.SPLITS).drop_duplicates("patient").set_index("patient").split


def test_a_run_after_an_addition_keeps_sides_and_has_old_and_new(lab, raw):
    before = sides(lab)
    add(raw, lab, {"P6", "C7", "C8"})
    run("dvc", "repro", "split", "pack", cwd=lab)
    now = sides(lab)
    assert (len(before), len(now)) == (5, 8)
    assert before.to_dict() == now[before.index].to_dict()
    summary = json.loads((lab / paths.SPLIT_SUMMARY).read_text())
    assert set(summary["came"]) == set(now.index) - set(before.index)
    packed = pd.read_csv(lab / paths.PACKED / "index.csv")
    assert set(packed.patient) == set(now.index)


def test_a_fresh_clone_of_what_was_added_makes_the_same_bytes(lab, raw, tmp_path):
    add(raw, lab, {"P6", "C7", "C8"})
    run("dvc", "repro", "split", cwd=lab)
    git("add", "--force", "data/folder", cwd=lab)
    commit(lab, "eight patients")
    clone = tmp_path / "clone"
    git("clone", "-q", str(lab), str(clone), cwd=lab)
    run("dvc", "repro", "split", cwd=clone)
    assert git("status", "--porcelain", cwd=clone) == ""
    for file in (paths.SPLITS, paths.SPLIT_SUMMARY, paths.SIDES):
        assert (clone / file).read_bytes() == (lab / file).read_bytes()


def test_cells_that_were_given_to_dvc_reach_a_fresh_clone(lab, tmp_path):
    (lab / "data/folder").rename(lab / "data/mycells")
    git("checkout", "-q", "data/folder", cwd=lab)
    change(lab, {"data.folder": "data/mycells"})
    run("dvc", "add", "-q", "data/mycells", cwd=lab)
    run("dvc", "remote", "add", "-q", "--force", "storage", str(tmp_path / "store"), cwd=lab)
    run("dvc", "repro", "split", cwd=lab)
    commit(lab, "cells in DVC")
    run("dvc", "push", "-q", cwd=lab)
    clone = tmp_path / "clone"
    git("clone", "-q", str(lab), str(clone), cwd=lab)
    store = os.environ | {"DVC_REMOTE_URL": str(tmp_path / "store")}
    run(sys.executable, "-m", "ci.storage", "pull", cwd=clone, environment=store)
    assert sides(clone).to_dict() == sides(lab).to_dict()
    for label in ("Parasitized", "Uninfected"):
        assert len(list((clone / "data/mycells" / label).iterdir())) > 50
    assert "Running stage" not in run("dvc", "repro", "split", cwd=clone).stdout
