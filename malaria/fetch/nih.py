"""What every copy of the NIH/NLM set has in common: its folders, its file names, its counts."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from malaria import files
from malaria.cells import names
from malaria.fetch import archives
from malaria.labels import LABELS, PARASITIZED, UNINFECTED

LICENCE = "courtesy of the U.S. National Library of Medicine; cite doi:10.7717/peerj.4568"


@dataclass(frozen=True)
class Census:
    """What the set must hold: cells of each class, and patients by their file names."""

    cells: int
    infected: int
    controls: int


# Rajaraman et al. 2018, doi:10.7717/peerj.4568; counted in the NLM's mapping files too.
WHOLE = Census(cells=13_779, infected=150, controls=50)


@dataclass(frozen=True)
class Unpacked:
    """`checksum` is of the cells alone, so that copies of the set compare; `ignored` as Provenance has it."""

    cells: int
    checksum: str
    ignored: tuple[str, ...]


def unpack(archive: Path, folder: Path, census: Census = WHOLE) -> Unpacked:
    """Unpack the cells of `archive` into the class folders of `folder`, and count them.

    A cell is a file in a folder called Parasitized or Uninfected, however deep. One that comes again
    with the same content is left out, as is what file browsers leave; neither depends on the order.

    Raises:
        archives.Damaged: the archive is damaged or dangerous; it holds two cells of one name; its counts
            are not those of `census`.
        UserError: the disk is full.
    """
    for label in LABELS:
        (folder / label).mkdir(parents=True, exist_ok=True)
    hashes: dict[str, str] = {}
    litter = again = others = 0
    with (
        archives.in_words(archive),
        tqdm(total=2 * census.cells, desc="unpacking", unit=" cells", disable=None) as bar,
    ):
        for member in archives.members(archive):
            path = _place(member.path)
            if member.path.name.lower() in files.LITTER:
                litter += 1
            elif path is None:
                others += 1
            elif path not in hashes:
                with (folder / path).open("wb") as out:
                    hashes[path] = _copy(member.stream, out)
                bar.update()
            elif _copy(member.stream) == hashes[path]:
                again += 1
            else:
                raise archives.Damaged(
                    f"{archive} holds two different cells called {path}: this is not the NIH/NLM set."
                )
    _check(hashes, census, archive)
    ignored = (
        (litter, "files that file browsers leave behind"),
        (again, "second copies of cells"),
        (others, "files outside the class folders"),
    )
    return Unpacked(
        len(hashes), checksum(hashes), tuple(f"{count:,} {what}" for count, what in ignored if count)
    )


def checksum(hashes: dict[str, str]) -> str:
    """One SHA-256 for cells with these, by `label/name`: as source folder has it for the same cells."""
    digest = hashlib.sha256()
    for path in sorted(hashes, key=lambda path: (LABELS.index(path.partition("/")[0]), path)):
        digest.update(f"{path}\0{hashes[path]}\n".encode())
    return digest.hexdigest()


def _place(member: PurePosixPath) -> str | None:
    """Where a member belongs, `label/name`; None for what is no cell."""
    above = member.parent.name.lower()
    label = next((label for label in LABELS if label.lower() == above), None)
    return f"{label}/{member.name}" if label and not member.name.startswith(".") else None


def _copy(stream: IO[bytes], out: IO[bytes] | None = None) -> str:
    """Read `stream` to its end, into `out` if given; the content's SHA-256."""
    digest = hashlib.sha256()
    while chunk := stream.read(2**18):
        digest.update(chunk)
        if out:
            out.write(chunk)
    return digest.hexdigest()


def _check(paths: Iterable[str], census: Census, archive: Path) -> None:
    """Raise a Damaged that names every count which is not that of `census`."""
    labels: Counter[str] = Counter()
    infected: dict[str, bool] = {}
    nameless = []
    for path in paths:
        label, _, name = path.partition("/")
        labels[label] += 1
        parsed = names.parse(name)
        if parsed is None:
            nameless.append(path)
        else:
            infected[parsed.patient] = parsed.infected
    people = Counter(infected.values())
    counts = (
        (labels[PARASITIZED], census.cells, "parasitised cells"),
        (labels[UNINFECTED], census.cells, "uninfected cells"),
        (people[True], census.infected, "infected patients"),
        (people[False], census.controls, "controls"),
        (len(nameless), 0, "cells whose name tells no patient"),
    )
    wrong = [f"{found:,} {what} (must be {due:,})" for found, due, what in counts if found != due]
    if wrong:
        example = f", {nameless[0]} among them" if nameless else ""
        raise archives.Damaged(
            f"{archive} is not the whole NIH/NLM set, it holds {' and '.join(wrong)}{example}: check "
            "data.source in params.yaml, where source folder takes a set with counts of its own."
        )
