"""The Jinja environment of every page, report and card of the project: undefined names are errors."""

from pathlib import Path

import jinja2


def environment(folder: Path, *, autoescape: bool) -> jinja2.Environment:
    """The templates in `folder`.

    Args:
        autoescape: True for HTML, False for Markdown.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
