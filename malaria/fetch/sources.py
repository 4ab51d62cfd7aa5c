"""Where cells come from: one module a source, each with `fetch(data, folder, cache) -> Provenance`."""

import importlib
from dataclasses import asdict
from pathlib import Path

from malaria import files, params
from malaria.cells.provenance import Provenance
from malaria.paths import PROVENANCE


def write(data: params.Data, folder: Path, cache: Path | None = None) -> Provenance:
    """Fill `folder` from the source that `data.source` names: class folders, and the record of where they are
    from, whole or not at all.

    Args:
        cache: where downloads are kept; None where `download.cache_folder` says.

    Raises:
        UserError: the source has no such cells; the sentence says what to do.
    """
    source = importlib.import_module(f"malaria.fetch.{data.source}")
    with files.atomic_folder(folder) as part:
        known: Provenance = source.fetch(data, part, cache)
        files.write_json(part / PROVENANCE.name, asdict(known))
    return known
