"""The NIH/NLM set from its publisher, with the slide of each cell. No account is needed."""

import ast
from dataclasses import replace
from pathlib import Path

import pandas as pd

from malaria import params, tables
from malaria.cells import names
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.fetch import download, nih
from malaria.labels import PARASITIZED, UNINFECTED
from malaria.paths import SLIDES

ARCHIVE = "cell_images.zip"
MAPPINGS = {label: f"patientid_cellmapping_{label.lower()}.csv" for label in (PARASITIZED, UNINFECTED)}


def fetch(
    data: params.Data, folder: Path, cache: Path | None = None, census: nih.Census = nih.WHOLE
) -> Provenance:
    """Download, check and unpack the set in `data.nlm`, and write slides.csv beside its class folders.

    Raises:
        UserError: as `download.fetch`, `read_mapping` and `nih.unpack`.
    """
    settings, downloads = data.nlm, cache_folder(data.nlm, cache)
    address = settings.url.rstrip("/")
    files = (
        (MAPPINGS[PARASITIZED], "data.nlm.parasitized_sha256", None, settings.parasitized_sha256),
        (MAPPINGS[UNINFECTED], "data.nlm.uninfected_sha256", None, settings.uninfected_sha256),
        (ARCHIVE, "data.nlm", settings.size, settings.sha256),
    )
    for name, key, size, sha256 in files:
        download.fetch(download.url(f"{address}/{name}", key, size, sha256), downloads / name)
    rows = sorted(row for label, name in MAPPINGS.items() for row in read_mapping(downloads / name, label))
    provenance = nih.unpack(downloads / ARCHIVE, folder, census)
    tables.write(pd.DataFrame(rows, columns=list(tables.SLIDES)), folder / SLIDES, tables.SLIDES)
    version = f"archive with SHA-256 {settings.sha256}"
    return replace(provenance, source="nlm", origin=f"{address}/{ARCHIVE}", version=version)


def cache_folder(settings: params.NlmData, cache: Path | None) -> Path:
    """The folder for downloads, named by the archive's hash, so that two archives never share one."""
    return download.cache_folder(cache) / "nlm" / settings.sha256[:16]


def read_mapping(mapping: Path, label: str) -> list[tuple[str, str, str]]:
    """Rows of tables.SLIDES from one of the NLM's mapping files, that of the cells in class folder `label`.

    It has no header; a row is a slide's key and a Python list of file names, padded with commas.

    Raises:
        UserError: a row has another form; the message gives its number.
    """
    rows = []
    for number, line in enumerate(mapping.read_text(encoding="utf-8").splitlines(), 1):
        slide, _, file_list = line.strip().rstrip(",").partition(",")
        patient = names.patient_of(slide)
        try:
            cells = ast.literal_eval(file_list)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            cells = None
        valid = isinstance(cells, list) and all(isinstance(name, str) and "/" not in name for name in cells)
        if not patient or not valid:
            raise UserError(f"{mapping}, row {number}: no slide key with a list of names; bring it again.")
        rows += [(f"{label}/{name}", slide, patient) for name in cells]
    return rows
