"""Where cells are from: what `fetch` knows of them, kept beside them for the audit."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from malaria import paths


@dataclass(frozen=True)
class Provenance:
    """What is known of fetched cells. Nothing here changes from one fetch of the same data to the next.

    `origin` is a URL, a slug or the folder as params.yaml names it; `checksum` is the SHA-256 of the
    archive or of the content; `ignored` says, a phrase each, what was left out.
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
    """The record in `raw`; an empty one where there is none, or no such record."""
    try:
        return TypeAdapter(Provenance).validate_json((raw / paths.PROVENANCE.name).read_bytes())
    except (OSError, ValueError):
        return Provenance()
