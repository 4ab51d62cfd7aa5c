"""`make bench-serving`, for a moment."""

import pytest

from benchmarks import serving

pytestmark = pytest.mark.long


def test_clients_are_answered_without_an_error_and_counted(live):
    found = serving.load(live, serving.encoded(3), clients=2, seconds=0.5)
    assert found.errors == 0
    assert len(found.waits) >= 2
    assert found.peak > 50


def test_an_answer_that_is_none_counts_as_an_error(live):
    found = serving.load(live, [b"no image"], clients=1, seconds=0.1)
    assert found.errors == len(found.waits) > 0


def test_the_line_gives_rate_waits_and_share_of_the_bare_rate():
    line = serving.as_line(serving.Load(8, 2.0, tuple(range(1, 101)), 0, 200.0), alone=0.01)
    assert line.split() == ["8", "50.0", "50.5", "99.0", "0", "200", "50", "%"]
