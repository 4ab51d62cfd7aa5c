"""Checks of the arguments that programs send to the app, and of whether they still wait."""

import contextvars
from types import SimpleNamespace

import pytest
from starlette.exceptions import HTTPException

from app import api
from app.gradio_import import LocalContext


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
        assert api.point_at(threshold).threshold == float(threshold)
        return
    with pytest.raises(HTTPException) as refused:
        api.point_at(threshold)
    assert refused.value.status_code == 422


def test_a_client_has_left_when_gradio_forgets_what_it_asked_for():
    events = {"asked": SimpleNamespace(alive=True)}

    def ask() -> None:
        LocalContext.blocks.set(SimpleNamespace(_queue=SimpleNamespace(event_ids_to_events=events)))
        LocalContext.event_id.set("asked")
        gone = api.client_gone()
        assert not gone()
        del events["asked"]
        assert gone()

    contextvars.copy_context().run(ask)
