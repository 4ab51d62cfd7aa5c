"""Draw charts for pages from Vega-Lite, the format that `dvc plots` uses too."""

import re
from typing import Any

import vl_convert

# vl-convert includes the font, so that text has the same width on every machine. Text and lines take the
# colour of the page's text, so that charts also fit a dark page.
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
        "labelFontSize": 12,
        "titleFontSize": 12,
    },
    "header": {"labelColor": "currentColor", "labelFontSize": 12},
    "legend": {"labelFontSize": 12, "titleFontSize": 12},
    "view": {"stroke": None},
}

_MARK = re.compile(r'<path (aria-label="([^"]*)" role="graphics-symbol"[^>]*)/>')


def svg(specification: dict[str, Any]) -> str:
    """Draw a Vega-Lite specification with inline data as SVG; the same one gives the same text.

    A mark shows its `description` (by default its values) under the pointer. Colours may be CSS variables of
    the page.

    Raises:
        ValueError: it is not valid Vega-Lite, or loads data from elsewhere.
    """
    image = vl_convert.vegalite_to_svg(specification, config=_CONFIG, allowed_base_urls=[])
    return _MARK.sub(r"<path \1><title>\2</title></path>", image)
