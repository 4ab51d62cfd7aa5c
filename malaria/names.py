"""What a file name of the NIH/NLM malaria set tells: slide, patient, infected or control.

Names read `C33P1thinF_IMG_20150619_114756a_cell_179.png`. What stands before `_IMG_` is the slide's
key. `P<n>` in it marks one of the 150 infected patients; a control has no such token and is known by
the `C<n>` of the slide. Spellings vary (`C37BP2_thinF`, `C68P29N_ThinF`, `C3thin_original`), and
one patient, P8, has two slides.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

_NAME = re.compile(
    r"(?P<slide>(?P<case>C\d+)[A-Z]?(?:P(?P<patient>\d+))?[A-Za-z_]*[Tt]hin\w*?)"
    r"_IMG_\d{8}_\d{6}[a-z]?_cell_\d+\.\w+",
    re.ASCII,
)


@dataclass(frozen=True)
class CellName:
    """Whose cell this is, and from which slide; `infected` tells the patient's state, not the cell's."""

    patient: str
    slide: str
    infected: bool


def parse(filename: str) -> CellName | None:
    """Read the name of a cell's file; None where it does not follow the scheme.

    Args:
        filename: a bare name or a path with forward slashes.
    """
    match = _NAME.fullmatch(PurePosixPath(filename).name)
    if match is None:
        return None
    infected = match["patient"] is not None
    patient = f"P{int(match['patient'])}" if infected else match["case"]
    return CellName(patient, match["slide"], infected)
