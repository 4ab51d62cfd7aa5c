"""benchmarks.serving (`make bench-serving`), in short runs."""

import pytest

from benchmarks import serving

pytestmark = pytest.mark.long


def test_clients_are_answered_without_an_error_and_counted(live):
    found = serving.load(live, serving.encoded(3), clients=2, seconds=0.5)
    assert (found["clients"], found["errors"]) == (2, 0)
    # Two clients, each with one request at a time.
    assert 2 <= found["answers/s"] <= 2 * 1000 / found["p50 ms"] * 2
    assert found["p50 ms"] <= found["p99 ms"]
    assert found["peak MB"] > 50


def test_an_answer_that_is_none_counts_as_an_error(live):
    found = serving.load(live, [b"no image"], clients=1, seconds=0.1)
    assert found["errors"] > found["answers/s"] == 0
