"""Where cells come from: one module a source, each with `fetch(data, folder, cache) -> Provenance`."""

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import cast

from malaria import files, params
from malaria.cells.provenance import Provenance
from malaria.paths import PROVENANCE


def fetch(data: params.Data, folder: Path, cache: Path | None = None) -> Provenance:
    """Fill the empty `folder` with class folders, from the source that `data.source` names.

    Args:
        cache: where downloads are kept; None where `download.cache_folder` says.

    Raises:
        UserError: the source has no such cells; the sentence says what to do.
    """
    module = importlib.import_module(f"malaria.fetch.{data.source}")
    return cast(Provenance, module.fetch(data, folder, cache))


def write(data: params.Data, folder: Path, cache: Path | None = None) -> Provenance:
    """`fetch` into `folder`, with the record of where it is from, whole or not at all."""
    with files.atomic_folder(folder) as part:
        known = fetch(data, part, cache)
        files.write_json(part / PROVENANCE.name, asdict(known))
    return known
