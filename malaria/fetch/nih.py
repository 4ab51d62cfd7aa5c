"""Unpack and check a copy of the NIH/NLM set; all copies have the same class folders, names and counts."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from malaria.cells import names
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.fetch import archives, class_folders
from malaria.labels import PARASITIZED, UNINFECTED

LICENCE = "courtesy of the U.S. National Library of Medicine; cite doi:10.7717/peerj.4568"


@dataclass(frozen=True)
class Census:
    """The counts that a set must have: cells of each class, and patients by the file names."""

    cells: int
    infected: int
    controls: int


# Rajaraman et al. 2018, doi:10.7717/peerj.4568; counted in the NLM's mapping files too.
WHOLE = Census(cells=13_779, infected=150, controls=50)


def unpack(archive: Path, folder: Path, census: Census = WHOLE) -> Provenance:
    """Unpack the cells of `archive` into the class folders of `folder`, and n them.

    Raises:
        UserError: as `archives.unpack` and `class_folders.place`; or the counts differ from `census`.
    """
    with archives.as_folder(archive, folder) as (contents, put):
        provenance = class_folders.place(contents, folder, put, str(archive), {})
    name_of = {path: names.parse(path.name) for path in folder.glob("*/*")}
    cell_counts = Counter(path.parent.name for path in name_of)
    patients = {(name.patient, name.infected) for name in name_of.values() if name}
    patient_counts = Counter(infected for _, infected in patients)
    unnamed = [f"{path.parent.name}/{path.name}" for path, name in name_of.items() if name is None]
    counts = (
        (cell_counts[PARASITIZED], census.cells, "parasitised cells"),
        (cell_counts[UNINFECTED], census.cells, "uninfected cells"),
        (patient_counts[True], census.infected, "infected patients"),
        (patient_counts[False], census.controls, "controls"),
        (len(unnamed), 0, "cells whose name tells no patient"),
    )
    wrong = [f"{n:,} {kind} (must be {expected:,})" for n, expected, kind in counts if n != expected]
    if wrong:
        example = f", {unnamed[0]} among them" if unnamed else ""
        raise UserError(
            f"{archive} is not the whole NIH/NLM set, it holds {' and '.join(wrong)}{example}: check "
            "data.source in params.yaml, where source folder takes a set with counts of its own."
        )
    return replace(provenance, licence=LICENCE)
