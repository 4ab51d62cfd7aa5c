"""benchmarks.training (`make bench-training`), in a short run."""

import re
import sys

import pytest

from tests.support.project import run


@pytest.mark.long
def test_start_up_and_steady_rate_are_told_apart_and_both_ways_reach_the_mark(finished):
    command = (sys.executable, "-m", "benchmarks.training", "--seeds", "1", "--epochs", "2", "--mark", "0.1")
    said = run(*command, "--steps", "2", "--rounds", "1", cwd=finished).stdout
    assert re.search(r"steady: [\d,]+ images/s: \d+\.\d% of a bare step's", said)
    assert re.search(
        r"val AUC +original s +ours s +start-up s +times as fast *\nseed +\n1 +0\.1( +\d+\.\d+){4}\n", said
    )
