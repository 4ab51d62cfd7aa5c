"""malaria.charts: Vega-Lite charts become SVG that is safe to put into a page."""

from typing import Any
from xml.etree import ElementTree

import pytest

from malaria import charts

NAME = "{http://www.w3.org/2000/svg}"


def bars(**data: Any) -> dict[str, Any]:
    return {
        "data": data,
        "mark": "bar",
        "encoding": {
            "x": {"field": "patient"},
            "y": {"field": "cells", "type": "quantitative"},
            "color": {"value": "var(--ink)"},
            "description": {"field": "patient"},
        },
    }


def test_each_mark_says_what_it_is_when_pointed_at():
    drawn = charts.svg(bars(values=[{"patient": "P1", "cells": 3}, {"patient": "P2", "cells": 5}]))
    marks = [path for path in ElementTree.fromstring(drawn).iter(f"{NAME}path") if len(path)]
    assert [mark[0].text for mark in marks] == ["P1", "P2"]
    assert {mark.get("fill") for mark in marks} == {"var(--ink)"}


def test_a_name_cannot_bring_markup_into_the_page():
    name = "</title><script>\"&'"
    root = ElementTree.fromstring(charts.svg(bars(values=[{"patient": name, "cells": 3}])))
    assert root.find(f".//{NAME}script") is None
    assert [title.text for title in root.iter(f"{NAME}title")] == [name]


def test_data_from_elsewhere_are_refused():
    with pytest.raises(ValueError, match="not allowed"):
        charts.svg(bars(url="http://localhost:1/cells.json"))
