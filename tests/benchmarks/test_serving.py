"""benchmarks.serving (`make bench-serving`), in short runs."""

import pytest

from benchmarks import serving

pytestmark = pytest.mark.long


def test_clients_are_answered_without_an_error_and_counted(live):
    figures = serving.load(live, serving.png_cells(3), clients=2, seconds=0.5)
    assert (figures["clients"], figures["errors"]) == (2, 0)
    # Two clients, each with one request at a time.
    assert 2 <= figures["answers/s"] <= 2 * 1000 / figures["p50 ms"] * 2
    assert figures["p50 ms"] <= figures["p99 ms"]
    assert figures["peak MB"] > 50


def test_an_answer_that_is_none_counts_as_an_error(live):
    figures = serving.load(live, [b"no image"], clients=1, seconds=0.1)
    assert figures["errors"] > figures["answers/s"] == 0
