"""The short form of `make fuzz-app`."""

import pytest

from tests.campaigns import fuzz_app

pytestmark = pytest.mark.long


def test_an_upload_follows_from_its_seed_and_number():
    assert fuzz_app.upload(1, 5) == fuzz_app.upload(1, 5)
    assert len({fuzz_app.upload(1, number)[2] for number in range(50)}) > 45


def test_the_app_answers_a_hundred_broken_uploads_and_lives_on(live):
    answers, faults = fuzz_app.send(live, seed=2, numbers=range(100))
    assert faults == []
    assert len({answer.partition(":")[0] for answer in answers}) == 4
    # Broken as they are, some reach each function of the page and the interfaces.
    assert {
        "classify: 200 error",
        "classify_batch: 200 complete",
        "show_cells: 200 complete",
    } <= answers.keys()
    assert live.process.poll() is None
