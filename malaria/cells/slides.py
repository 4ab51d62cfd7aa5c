"""The slide that each cell was cut from, where its publisher tells: slides.csv, beside the class folders."""

from pathlib import Path
from typing import NamedTuple

from malaria import paths, tables


class Row(NamedTuple):
    """A row of tables.SLIDES: `slide` is the NLM's key, `patient` the P or else the C number in it."""

    path: str
    slide: str
    patient: str


def read(raw: Path) -> dict[str, Row]:
    """The slides of the cells in `raw`, by path; empty where there is no table.

    Raises:
        UserError: it is another table.
    """
    file = raw / paths.SLIDES
    if not file.exists():
        return {}
    return {row[0]: Row(*row) for row in tables.read(file, tables.SLIDES).itertuples(index=False)}
