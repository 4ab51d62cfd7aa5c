"""Fetch cells from the chosen source; each is a module with `fetch(data, folder, cache) -> Provenance`."""

import importlib
from dataclasses import asdict
from pathlib import Path

from malaria import files, params
from malaria.cells.provenance import Provenance
from malaria.paths import PROVENANCE


def write(data: params.Data, folder: Path, cache: Path | None = None) -> Provenance:
    """Fill `folder` with cells from `data.source` and the record of their origin, whole or not at all.

    Args:
        cache: the folder for downloads; None for that of `download.cache_folder`.

    Raises:
        UserError: the source does not give the cells; the message says what to do.
    """
    source = importlib.import_module(f"malaria.fetch.{data.source}")
    with files.atomic_folder(folder) as part:
        provenance: Provenance = source.fetch(data, part, cache)
        files.write_json(part / PROVENANCE.name, asdict(provenance))
    return provenance
