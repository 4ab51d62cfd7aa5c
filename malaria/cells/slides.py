"""The slide of each cell, if the publisher gives it: slides.csv, beside the class folders."""

from pathlib import Path
from typing import NamedTuple

from malaria import paths, tables


class Row(NamedTuple):
    """A row of tables.SLIDES: `slide` is the NLM's key, `patient` the P or else the C number in it."""

    path: str
    slide: str
    patient: str


def read(raw: Path) -> dict[str, Row]:
    """Read slides.csv in `raw`: its rows by path of the cell; empty without such a table.

    Raises:
        UserError: the table is damaged, or has other columns.
    """
    file = raw / paths.SLIDES
    if not file.exists():
        return {}
    return {row[0]: Row(*row) for row in tables.read(file, tables.SLIDES).itertuples(index=False)}
