"""`make release`: the errors that stop it, and the tag, notes and bundle that it makes."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from app import revisions as served
from ci import release, revisions
from experiments import pretrained
from malaria import bundle, files
from malaria.errors import UserError
from tests.support import project
from tests.support.project import git, run

pytestmark = pytest.mark.long

# Few cells and two epochs give no calibrated model. Other tests run the cheap stages again.
GATE = {"gate.min_cells": 20, "gate.min_auc": 0.0, "gate.max_ece": 1.0, "gate.rerun": []}
BUNDLE = "models/malaria-cells"


@pytest.fixture(scope="module")
def real(finished, once, tmp_path_factory) -> Path:
    """A repository whose results, with data.source `folder`, are committed, pushed and released as 1.0.0.

    The folder holds the cells of the synthetic sample, because this repository may hold no real ones.
    `said.txt` beside the repository is the output of the release.
    """

    def make(folder: Path) -> None:
        clone = folder / "clone"
        git("clone", "-q", str(finished), str(clone), cwd=finished)
        git("config", "user.name", "t", cwd=clone)
        git("config", "user.email", "t@example.org", cwd=clone)
        shutil.copytree(
            finished / "data/raw", folder / "cells", ignore=shutil.ignore_patterns("provenance.json")
        )
        for made in ("dvc.lock", "reports/summary.json"):
            shutil.copy(finished / made, clone / made)
        run("dvc", "cache", "dir", "--local", str(finished / ".dvc/cache"), cwd=clone)
        run("dvc", "checkout", "-q", cwd=clone)
        project.change(clone, {"data.source": "folder", "data.folder": str(folder / "cells"), **GATE})
        said = run("dvc", "repro", cwd=clone).stdout
        assert "Running stage 'train'" not in said
        git("add", "-A", cwd=clone)
        git("commit", "-qm", "results", cwd=clone)
        run(sys.executable, "-m", "remote.push", cwd=clone)
        released = run(sys.executable, "-m", "ci.release", "1.0.0", cwd=clone)
        (folder / "said.txt").write_text(released.stdout)

    folder = tmp_path_factory.mktemp("release") / "released"
    # With the remote, which lies beside the repository.
    shutil.copytree(once("released", make), folder, symlinks=True)
    return folder / "clone"


@pytest.fixture
def here(real, monkeypatch) -> Path:
    """`real` as the current folder; the test's changes are undone afterwards."""
    monkeypatch.chdir(real)
    head = git("rev-parse", "HEAD", cwd=real)
    yield real
    git("reset", "-q", "--hard", head, cwd=real)
    run("dvc", "checkout", "-q", "--force", cwd=real)


@pytest.mark.parametrize(
    ("version", "last", "sentence"),
    [
        ("", "", "VERSION is '', but must be three numbers, as 1.2.0."),
        ("v1.2.0", "", "VERSION is 'v1.2.0', but"),
        ("1.2", "", "VERSION is '1.2', but"),
        ("1.2.0", "malaria-cells@v1.2.0", "malaria-cells@v1.2.0 is released already: choose a higher one."),
        ("1.9.9", "malaria-cells@v1.10.0", "malaria-cells@v1.10.0 is released already"),
    ],
)
def test_a_version_is_three_numbers_above_the_last(version, last, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        release.check_version(version, last)
    assert release.check_version("1.10.1", "malaria-cells@v1.10.0") == "malaria-cells@v1.10.1"


@pytest.mark.parametrize(
    ("tags", "last"),
    [
        (["malaria-cells@v1.9.9", "malaria-cells@v1.10.0", "malaria-cells@v1.10", "other@v2.0.0"], "v1.10.0"),
        (["v3.0.0"], ""),
    ],
)
def test_the_last_release_is_the_highest_by_its_numbers(tmp_path, monkeypatch, tags, last):
    monkeypatch.chdir(tmp_path)
    git("init", "-q", ".", cwd=tmp_path)
    (tmp_path / "a").touch()
    project.commit(tmp_path, "one")
    for tag in tags:
        git("tag", tag, cwd=tmp_path)
    assert release.last_release() == (f"malaria-cells@{last}" if last else "")


def test_a_gate_that_fails_needs_a_reason():
    assert release.check_gate("v1", True, "all passed", None) == "all passed"
    for reason in (None, ""):
        with pytest.raises(UserError, match="does not pass against v1, as said above"):
            release.check_gate("v1", False, "AUC failed", reason)
    notes = release.check_gate("v1", False, "AUC failed", "a new stain")
    assert notes == "AUC failed\nReleased all the same: a new stain"


def test_a_change_without_a_commit_is_refused(here):
    release.check_clean()
    (here / "note.txt").write_text("x")
    with pytest.raises(UserError, match=r"note\.txt is the first\): commit them"):
        release.check_clean()
    (here / "note.txt").unlink()


def test_results_of_other_parameters_are_refused(here):
    project.change(here, {"export.precision": "float16"})
    git("commit", "-qam", "parameter alone", cwd=here)
    with pytest.raises(
        UserError, match=r"dvc\.lock is not up to date \(dvc status: export\): run `dvc repro`"
    ):
        revisions.check_up_to_date()


def test_a_bundle_of_synthetic_cells_is_refused(model_bundle, tmp_path, monkeypatch):
    shutil.copytree(model_bundle, tmp_path / BUNDLE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="was made of synthetic cells and says nothing about real ones"):
        release.check_real()


def test_results_that_are_in_no_remote_are_refused(here):
    local = (here / ".dvc/config.local").read_text()
    run("dvc", "remote", "modify", "--local", "storage", "url", str(here.parent / "empty"), cwd=here)
    try:
        with pytest.raises(
            UserError, match=r"of the outputs' files are not in the remote .* run `make push`"
        ):
            release.check_pushed()
    finally:
        (here / ".dvc/config.local").write_text(local)
    release.check_pushed()


def test_a_failing_gate_stops_a_release_unless_a_reason_is_given_for_the_notes(here):
    project.change(here, {"gate.max_ece": 1e-6})
    git("commit", "-qam", "a limit that it cannot keep", cwd=here)
    # HEAD is compared with itself, so its own limits count, and no stage is run again.
    passed, said = release.gate("HEAD")
    assert not passed
    assert "failed     calibration" in said
    with pytest.raises(
        UserError, match="The gate does not pass, as said above: put that right, or release all the"
    ):
        release.check_gate("", passed, said, None)
    verdict = release.check_gate("", passed, said, "a trial of the tool")
    assert verdict == f"{said}\nReleased all the same: a trial of the tool"


def test_a_release_is_an_annotated_tag_whose_message_are_the_notes(real):
    released = (real.parent / "said.txt").read_text()
    assert released.endswith(
        "malaria-cells@v1.0.0 is made here. To publish it: git push origin HEAD malaria-cells@v1.0.0\n"
    )
    assert git("cat-file", "-t", "malaria-cells@v1.0.0", cwd=real) == "tag"
    said = git("tag", "-l", "--format=%(contents)", "malaria-cells@v1.0.0", cwd=real)
    assert said.startswith("# malaria-cells@v1.0.0\n\nResearch use only.")
    assert said in released
    auc = json.loads((real / "reports/metrics.json").read_text())["test"]["auc"]["value"]
    assert f"| AUC | {auc:.4f} (" in said
    assert "on 240 cells of 12 patients (data.source: folder)" in said
    assert f"`{files.sha256(real / BUNDLE / bundle.MANIFEST)}`" in said
    assert "    The gate passes." in said
    assert "[again]" not in said


def test_a_released_bundle_comes_by_name_and_version_from_the_remote_and_the_app_takes_it(
    real, tmp_path, monkeypatch
):
    run("dvc", "artifacts", "get", str(real), "malaria-cells", "--rev", "v1.0.0", "-o", "got", cwd=tmp_path)
    got, made = (
        {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in (tmp_path / "got", real / BUNDLE)
    )
    assert got == made
    monkeypatch.setenv("MALARIA_CACHE", str(tmp_path / "cache"))
    folder, origin = served.fetch("malaria-cells@v1.0.0", str(real))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == made
    assert origin.tags == ("malaria-cells@v1.0.0",)


def test_the_next_release_says_what_changed_since_the_last(here):
    project.change(here, {"audit.max_quarantined": 0.5})
    run("dvc", "repro", cwd=here)
    git("commit", "-qam", "another limit", cwd=here)
    run("dvc", "push", "-q", cwd=here)
    said = run(sys.executable, "-m", "ci.release", "1.1.0", "--dry", cwd=here).stdout
    assert "## Against malaria-cells@v1.0.0, on its test cells" in said
    assert re.search(r"\nOn \d+ cells of 3 patients\. 0 others are of patients that this version ", said)
    assert re.search(r"\| AUC \| (\S+) \| \1 \| \+0\.0000 \|", said)
    assert (
        "## Parameters changed since malaria-cells@v1.0.0\n\n- `audit.max_quarantined`: 0.02 → 0.5\n" in said
    )
    assert said.endswith("malaria-cells@v1.1.0 could be released.\n")
    assert git("tag", "-l", cwd=here) == "malaria-cells@v1.0.0"


def test_the_lock_beside_the_pretrained_bundle_names_its_cells_and_no_run_on_a_split():
    lock = (project.ROOT / "dvc.lock").read_text()
    kept = yaml.safe_load(pretrained.lock_of_cells(lock))["stages"]
    assert kept == {name: yaml.safe_load(lock)["stages"][name] for name in ("fetch", "audit", "pack")}
