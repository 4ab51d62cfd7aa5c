"""Imitate the NIH/NLM set with drawn cells: its counts, its kind of names, its archives."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from malaria.fetch import nlm
from malaria.fetch.nih import WHOLE, Census
from malaria.labels import PARASITIZED, UNINFECTED


@dataclass(frozen=True)
class Cell:
    """One cell: the class folder it lies in, the slide it was cut from, its file name."""

    label: str
    slide: str
    name: str


Draw = Callable[[Cell], bytes]  # gives a cell's picture, as the content of a file


def cells(census: Census = WHOLE) -> Iterator[Cell]:
    """Cells with the counts of `census`; each infected patient has cells of both classes."""
    infected = [f"C{100 + number}P{number}ThinF" for number in range(1, census.infected + 1)]
    controls = [f"C{number}NThinF" for number in range(1, census.controls + 1)]
    for label, slides in ((PARASITIZED, infected), (UNINFECTED, infected + controls)):
        for index in range(census.cells):
            slide = slides[index % len(slides)]
            number = index + 1 + (census.cells if label == UNINFECTED else 0)
            yield Cell(label, slide, f"{slide}_IMG_20150918_{140000 + index // 400:06}_cell_{number}.png")


def placeholder(cell: Cell) -> bytes:
    """Unique bytes in place of a cell's picture, for archives whose pictures are not decoded."""
    return f"drawn for {cell.label}/{cell.name}".encode()


def write_archive(
    out: Path | io.BytesIO, census: Census = WHOLE, draw: Draw = placeholder, *, twice: bool = False
) -> None:
    """Write a zip like the NLM's or, with the folder `twice`, like Kaggle's; both have Thumbs.db files."""
    with zipfile.ZipFile(out, "w") as archive:
        for prefix in ("cell_images", "cell_images/cell_images")[: 1 + twice]:
            for label in (PARASITIZED, UNINFECTED):
                archive.writestr(f"{prefix}/{label}/Thumbs.db", b"litter")
            for cell in cells(census):
                archive.writestr(f"{prefix}/{cell.label}/{cell.name}", draw(cell))


def mapping(label: str, census: Census = WHOLE) -> str:
    """The mapping file of one class, as the NLM writes it."""
    names_by_slide: dict[str, list[str]] = {}
    for cell in cells(census):
        if cell.label == label:
            names_by_slide.setdefault(cell.slide, []).append(cell.name)
    return "".join(f"{slide},{names!r},,,\n" for slide, names in sorted(names_by_slide.items()))


def published(census: Census = WHOLE, draw: Draw = placeholder) -> dict[str, bytes]:
    """The files of the NLM's server by name: the archive, and the mapping of each class."""
    archive = io.BytesIO()
    write_archive(archive, census, draw)
    mappings = {name: mapping(label, census).encode() for label, name in nlm.MAPPINGS.items()}
    return {nlm.ARCHIVE: archive.getvalue(), **mappings}


def nlm_section(base: str, served: Mapping[str, bytes]) -> dict[str, str | int]:
    """The section data.nlm of params.yaml for a server at `base` with the files `served`."""
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in served.items()}
    return {
        "url": base,
        "size": len(served[nlm.ARCHIVE]),
        "sha256": sha256[nlm.ARCHIVE],
        **{f"{label.lower()}_sha256": sha256[name] for label, name in nlm.MAPPINGS.items()},
    }
