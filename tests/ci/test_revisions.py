"""Revisions to judge and to judge by, in a pipeline in miniature."""

import json
import re
import shutil

import pytest

from ci import outputs, retrain, revisions
from ci.github import artifact
from malaria import paths
from malaria.errors import UserError
from tests.support import miniature, project
from tests.support.project import commit, git

pytestmark = [
    pytest.mark.long,
    # From a library of DVC, which the other tests run as a program.
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),
]


@pytest.fixture
def repository(once, tmp_path, monkeypatch):
    """A pipeline with results, in the current folder; a test may change it."""
    folder = project.copy(once("miniature", miniature.make), tmp_path / "repository")
    git("branch", "-M", "main", cwd=folder)
    monkeypatch.chdir(folder)
    return folder


def test_the_base_has_the_results_that_its_lock_names_whatever_the_cache_holds(repository):
    network = paths.BUNDLE / "network.tflite"
    (listing,) = (repository / ".dvc/cache").rglob(miniature.md5(repository, "export")[2:])
    entry = next(one for one in json.loads(listing.read_text()) if one["relpath"] == network.name)
    (held,) = (repository / ".dvc/cache").rglob(entry["md5"][2:])
    held.unlink()
    held.write_text("a worse network")
    held.chmod(0o444)
    with revisions.base("main") as base:
        assert (base.folder / network).read_text() == (repository / network).read_text()
        assert base.note == "export were in no store, and made anew"


def test_records_that_git_holds_behind_a_link_are_refused_too(repository):
    (repository / "reports").rename(repository / "kept")
    (repository / "reports").symlink_to("kept")
    (repository / "kept/ci").mkdir()
    (repository / "kept/ci/run.json").write_text("{}")
    git("add", "--force", "kept/ci/run.json", cwd=repository)
    commit(repository, "a record")
    with pytest.raises(UserError, match=r"git holds kept/ci/run\.json, where results and their records"):
        revisions.check_up_to_date()


def test_a_branch_counts_and_not_a_tag_of_its_name(repository):
    main = git("rev-parse", "HEAD", cwd=repository)
    git("checkout", "-q", "-b", "other", cwd=repository)
    (repository / "more").write_text("more")
    commit(repository, "more")
    git("tag", "main", cwd=repository)
    assert revisions.resolve("main") == main


def test_a_stage_of_another_folder_s_pipeline_is_run_too(repository):
    stage = {"cmd": "echo done > figures", "deps": ["../models/model.keras"], "outs": ["figures"]}
    (repository / "more").mkdir()
    miniature.write_stages(repository / "more", {"count": stage})
    retrain.reproduce()
    assert (repository / "more/figures").read_text() == "done\n"


def test_entries_of_stages_that_are_gone_count_for_nothing(repository):
    """DVC leaves them in dvc.lock."""
    stages = miniature.stages_of(repository)
    stages["more"] = {"cmd": "echo > figures", "outs": ["figures"]}
    miniature.write_stages(repository, stages)
    miniature.reproduce(repository)
    del stages["more"]
    (repository / "figures").unlink()
    miniature.write_stages(repository, stages)
    commit(repository, "no figures")
    assert "more" not in revisions.work_tree().lock
    with revisions.base("main") as base:
        assert base.note == ""


def test_a_stage_may_run_in_another_folder_or_have_no_outputs(repository):
    (repository / "more").mkdir()
    counts = {"cmd": "echo > figures", "wdir": "more", "deps": ["../models"], "outs": ["figures"]}
    look = {"cmd": "echo", "deps": ["models"]}
    miniature.write_stages(repository, miniature.stages_of(repository) | {"count": counts, "look": look})
    miniature.reproduce(repository)
    with revisions.base("main") as base:
        assert (base.folder / "more/figures").is_file()
        assert base.note == ""


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\nstages:\n=======\n", "stages: [train]\n"])
@pytest.mark.parametrize("name", ["dvc.lock", "dvc.yaml"])
def test_a_pipeline_that_cannot_be_read_is_named(repository, name, content):
    (repository / name).write_text(content)
    commit(repository, "a conflict")
    for read in (retrain.reproduce, revisions.work_tree, lambda: revisions.base("main").__enter__()):
        with pytest.raises(UserError, match=re.escape(name)):
            read()


def test_results_of_a_pipeline_without_some_of_the_stages_are_handed_over(repository, tmp_path):
    assert not set(artifact.STAGES) <= miniature.stages_of(repository).keys()
    artifact.pack()
    shutil.copytree(outputs.RETRAINED, tmp_path / "artifact")
    shutil.rmtree(repository / ".dvc/cache")
    paths.MODEL.unlink()
    artifact.take(tmp_path / "artifact")
    assert paths.MODEL.is_file()
