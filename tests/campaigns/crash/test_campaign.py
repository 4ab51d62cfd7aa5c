"""A pipeline that is killed and started again ends with the same bytes as an undisturbed one.

One run is left undisturbed. The others, each in a fresh clone with an empty DVC cache, are killed again
and again: the whole process group, DVC alone, or the stage alone; in each stage, in the middle of training,
while a result is written, while DVC itself works. At the end of each run the hashes in dvc.lock must be those
of the undisturbed one. The first difference stops the campaign. `make kill-pipeline` kills a hundred times at
random. The environment variables KILLS, KILLS_A_RUN and KILLS_SEED set the number of kills, the number in
each run, and the seed that draws stages, moments and victims.
"""

import os
import shutil
import time
from collections import Counter

import pytest

from tests.campaigns.crash import campaign
from tests.campaigns.crash.campaign import Kill
from tests.support import project

pytestmark = pytest.mark.long

KILLS, A_RUN, SEED = (
    int(os.environ.get(name, usual)) for name, usual in (("KILLS", 0), ("KILLS_A_RUN", 10), ("KILLS_SEED", 1))
)
# Enough cells that stages start worker processes.
CELLS = {"data.sample.cells": 420} if KILLS else {}


@pytest.fixture
def longer(finished, tmp_path):
    """The finished repository, with enough epochs to kill training between two of them."""
    repository = tmp_path / "undisturbed"
    shutil.copytree(finished, repository)
    project.change(repository, {"train.epochs": 20, "train.patience": 20, **CELLS})
    # Without dvc.lock, so that clones begin with nothing done.
    project.git("commit", "-aqm", "more epochs", cwd=repository)
    project.run("dvc", "repro", cwd=repository)
    return repository


def test_killed_in_the_middle_of_training_and_elsewhere_the_pipeline_ends_with_the_same_bytes(
    longer, tmp_path
):
    begun, expected, report = time.monotonic(), campaign.undisturbed(longer), campaign.Report()
    print("undisturbed, seconds:", *(f"{name} {lasts:.1f}" for name, lasts in expected.lasts.items()))
    kills = [
        Kill("audit", "dvc", "write", 0.0),
        Kill("train", "group", "epoch", 0.0, epoch=1),
        Kill("evaluate", "stage", "clock", 0.0),
    ]
    campaign.one_run(expected, kills, tmp_path, report)
    assert report.kills == kills
    assert report.resumed
    campaign.at_random(expected, KILLS, A_RUN, SEED, tmp_path, report)
    found = Counter(what for kill in report.kills for what in (kill.victim, kill.moment, kill.stage))
    print(f"killed {len(report.kills)} times:", *(f"{what} {count}" for what, count in found.most_common()))
    print(f"trainings taken up in the middle: {len(report.resumed)}")
    print(f"the last orphan of DVC ended {max(report.lingered, default=0):.2f} s after it")
    print(f"files of DVC's own found torn by it, and removed: {len(report.removed)}")
    print(f"{report.runs} runs to their end in {(time.monotonic() - begun) / 60:.0f} minutes")
