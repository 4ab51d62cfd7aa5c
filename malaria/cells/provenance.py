"""The origin of the cells: a record that `fetch` writes beside them, and that the audit shows."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from malaria import paths


@dataclass(frozen=True)
class Provenance:
    """The origin of fetched cells. Another fetch of the same data gives the same record.

    `origin` is a URL, a slug or the folder as params.yaml names it; `checksum` is the SHA-256 of the
    archive or of the content; `ignored` has a phrase for each kind of thing that was left out.
    """

    source: str = ""
    origin: str = ""
    version: str = ""
    checksum: str = ""
    licence: str = ""
    cells: int = 0
    ignored: tuple[str, ...] = ()

    @property
    def synthetic(self) -> bool:
        return self.source == "sample"


def read(raw: Path) -> Provenance:
    """The record in `raw`; an empty one if it is missing or damaged."""
    try:
        return TypeAdapter(Provenance).validate_json((raw / paths.PROVENANCE.name).read_bytes())
    except (OSError, ValueError):
        return Provenance()
