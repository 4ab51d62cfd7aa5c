"""Revisions to judge and to judge by, in a pipeline in miniature."""

import json

import pytest

from ci import retrain, revisions
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
