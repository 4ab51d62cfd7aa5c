"""Checks of the arguments that programs send to the app."""

import pytest
from starlette.exceptions import HTTPException

from app import api


@pytest.mark.parametrize(
    ("threshold", "taken"),
    [
        (0, True),
        ("1", True),
        (1.001, False),
        (-0.1, False),
        ("nan", False),
        (None, False),
        pytest.param(10**400, False, id="400 digits"),
    ],
)
def test_a_threshold_is_a_number_from_zero_to_one(threshold, taken):
    if taken:
        assert api.chosen(threshold).threshold == float(threshold)
        return
    with pytest.raises(HTTPException) as refused:
        api.chosen(threshold)
    assert refused.value.status_code == 422
