"""Pictures of numbers for pages, in Vega-Lite: the grammar that `dvc plots` draws in too."""

import re
from typing import Any

import vl_convert

# The font is one that vl-convert brings along, so that text is measured alike on every machine. Text and
# lines take the colour of the text around the picture, which a dark page changes.
_CONFIG = {
    "background": None,
    "font": "Liberation Sans",
    "style": {"guide-label": {"fill": "currentColor"}, "guide-title": {"fill": "currentColor"}},
    "title": {"color": "currentColor"},
    "axis": {
        "domainColor": "currentColor",
        "gridColor": "currentColor",
        "gridOpacity": 0.15,
        "tickColor": "currentColor",
    },
    "view": {"stroke": None},
}

_MARK = re.compile(r'<path (aria-label="([^"]*)" role="graphics-symbol"[^>]*)/>')


def svg(specification: dict[str, Any]) -> str:
    """Draw a Vega-Lite specification whose data stand in it; the same one makes the same bytes.

    A mark shows its `description` (by default its values) when pointed at. Colours may be CSS variables of
    the page.

    Raises:
        ValueError: it is no Vega-Lite, or asks for data from elsewhere.
    """
    drawn = vl_convert.vegalite_to_svg(specification, config=_CONFIG, allowed_base_urls=[])
    return _MARK.sub(r"<path \1><title>\2</title></path>", drawn)
