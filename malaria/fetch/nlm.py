"""The NIH/NLM set from its publisher, with the slide of each cell. No account is needed."""

from pathlib import Path

from urllib3.util import Retry

from malaria import params
from malaria.cells import slides
from malaria.fetch import download, nih
from malaria.fetch.sources import Provenance
from malaria.labels import PARASITIZED, UNINFECTED
from malaria.paths import SLIDES

ARCHIVE = "cell_images.zip"
MAPPINGS = {
    PARASITIZED: "patientid_cellmapping_parasitized.csv",
    UNINFECTED: "patientid_cellmapping_uninfected.csv",
}


def fetch(
    data: params.Data,
    folder: Path,
    cache: Path | None = None,
    census: nih.Census = nih.WHOLE,
    retries: Retry = download.PATIENT,
) -> Provenance:
    """Download, check and unpack what `data.nlm` names, and write slides.csv beside the class folders.

    Raises:
        UserError: as `download.fetch`, `slides.parse` and `nih.unpack`.
    """
    asked = data.nlm
    # By its hash, so that no two archives ever share a place.
    kept = download.cache_folder(cache) / "nlm" / asked.sha256[:16]
    hashes = {PARASITIZED: asked.parasitized_sha256, UNINFECTED: asked.uninfected_sha256}
    rows = []
    for label, name in MAPPINGS.items():
        remote = _remote(asked, name, f"data.nlm.{label.lower()}_sha256", None, hashes[label])
        download.fetch(remote, kept / name, retries)
        rows += slides.parse(kept / name, label)
    remote = _remote(asked, ARCHIVE, "data.nlm", asked.size, asked.sha256)
    download.fetch(remote, kept / ARCHIVE, retries)
    unpacked = nih.unpack(kept / ARCHIVE, folder, census)
    slides.write(rows, folder / SLIDES)
    return Provenance(
        source="nlm",
        origin=remote.origin,
        version=f"archive with SHA-256 {asked.sha256}",
        checksum=unpacked.checksum,
        licence=nih.LICENCE,
        cells=unpacked.cells,
        ignored=unpacked.ignored,
    )


def _remote(asked: params.NlmData, name: str, setting: str, size: int | None, sha256: str) -> download.Remote:
    return download.url(f"{asked.url.rstrip('/')}/{name}", setting, size, sha256)
