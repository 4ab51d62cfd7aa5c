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
        UserError: as `download.fetch`, `mapped` and `nih.unpack`.
    """
    asked, kept = data.nlm, cache_of(data.nlm, cache)
    address = asked.url.rstrip("/")
    wanted = (
        (MAPPINGS[PARASITIZED], "data.nlm.parasitized_sha256", None, asked.parasitized_sha256),
        (MAPPINGS[UNINFECTED], "data.nlm.uninfected_sha256", None, asked.uninfected_sha256),
        (ARCHIVE, "data.nlm", asked.size, asked.sha256),
    )
    for name, setting, size, sha256 in wanted:
        download.fetch(download.url(f"{address}/{name}", setting, size, sha256), kept / name)
    rows = sorted(row for label, name in MAPPINGS.items() for row in mapped(kept / name, label))
    placed = nih.unpack(kept / ARCHIVE, folder, census)
    tables.write(pd.DataFrame(rows, columns=list(tables.SLIDES)), folder / SLIDES, tables.SLIDES)
    version = f"archive with SHA-256 {asked.sha256}"
    return replace(placed, source="nlm", origin=f"{address}/{ARCHIVE}", version=version)


def cache_of(asked: params.NlmData, cache: Path | None) -> Path:
    """The folder for downloads, named by the archive's hash, so that two archives never share one."""
    return download.cache_folder(cache) / "nlm" / asked.sha256[:16]


def mapped(mapping: Path, label: str) -> list[tuple[str, str, str]]:
    """Rows of tables.SLIDES from one of the NLM's mapping files, that of the cells in class folder `label`.

    It has no header; a row is a slide's key and a Python list of file names, padded with commas.

    Raises:
        UserError: a row has another form; the message gives its number.
    """
    rows = []
    for number, line in enumerate(mapping.read_text(encoding="utf-8").splitlines(), 1):
        slide, _, listed = line.strip().rstrip(",").partition(",")
        patient = names.patient_of(slide)
        try:
            found = ast.literal_eval(listed)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        plain = isinstance(found, list) and all(isinstance(name, str) and "/" not in name for name in found)
        if not patient or not plain:
            raise UserError(f"{mapping}, row {number}: no slide key with a list of names; bring it again.")
        rows += [(f"{label}/{name}", slide, patient) for name in found]
    return rows
