"""A pipeline that is killed and taken up again ends with the bytes of one that never was."""

import shutil

import pytest

from tests.campaigns.crash import campaign
from tests.campaigns.crash.campaign import Kill
from tests.support import project

pytestmark = pytest.mark.long


@pytest.fixture
def longer(finished, tmp_path):
    """The finished repository with so many epochs that a kill between two of them comes in time."""
    repository = tmp_path / "undisturbed"
    shutil.copytree(finished, repository)
    project.change(repository, {"train.epochs": 20, "train.patience": 20})
    # Without dvc.lock: its clones begin with nothing done.
    project.git("commit", "-aqm", "more epochs", cwd=repository)
    project.run("dvc", "repro", cwd=repository)
    return repository


def test_killed_in_the_middle_of_training_and_elsewhere_the_pipeline_ends_with_the_same_bytes(
    longer, tmp_path
):
    report = campaign.Report()
    kills = [
        Kill("audit", "dvc", "write", 0.0),
        Kill("train", "group", "epoch", 0.0, epoch=1),
        Kill("evaluate", "stage", "clock", 0.0),
    ]
    campaign.one_run(campaign.undisturbed(longer), kills, tmp_path, report)
    assert report.wrong == []
    assert report.kills == kills
    assert report.resumed
