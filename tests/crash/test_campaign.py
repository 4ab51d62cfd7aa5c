"""A pipeline that is killed and taken up again ends with the bytes of one that never was."""

import random

from tests.crash import campaign


def test_killed_in_the_middle_of_training_and_elsewhere_the_pipeline_ends_with_the_same_bytes(
    finished, tmp_path
):
    report = campaign.Report()
    campaign.one_run(campaign.undisturbed(finished), 4, random.Random(1), tmp_path, report)
    assert report.wrong == []
    assert len(report.kills) >= 3
    assert report.resumed
