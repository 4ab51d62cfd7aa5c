"""What a file name of the NIH/NLM set tells: the patient, and the slide that the cell was cut from."""

import re
import unicodedata
from dataclasses import dataclass

# C33P1thinF_IMG_20150619_114756a_cell_179.png: slide, photograph (date, time, perhaps a letter) and
# cell. In the slide C counts people, and an infected person also has a P number, sometimes with a
# letter before it (C37BP2_thinF); what follows is spelt in more than a dozen ways, but says "thin". After the
# cell's number an altered copy of it says what was done: cell_179_rot90.
_PERSON = re.compile(r"(?P<person>C[0-9]+)(?:[A-Z]?(?P<infected>P[0-9]+))?")
_NAME = re.compile(
    rf"(?P<slide>{_PERSON.pattern}_?(?:N_?|Re)?[Tt]hin[0-9A-Za-z_]*?)"
    r"_IMG_[0-9]{8}_[0-9]{6}[a-z]?_cell_[0-9]+(?:[_-][0-9A-Za-z]+)*\.[0-9A-Za-z]+"
)

# What ends the names of altered copies, such as cell_167_rot90: they are of the patient of cell_167.
_COPY = re.compile(
    r"([_-](rot|flip|hflip|vflip|mirror|aug|crop|zoom|shear|shift|noise|blur|bright|dark|copy)[a-z]*[_-]?[0-9]*)+$"
)


@dataclass(frozen=True)
class CellName:
    """What a file name tells.

    patient: `P<n>` of an infected person, `C<n>` of an uninfected control; slide: the NLM's key of the
    slide, of which one patient has two; infected: whether the patient is (not this cell).
    """

    patient: str
    slide: str
    infected: bool


def parse(filename: str) -> CellName | None:
    """Read a file name, without its folders; None when it does not follow the NIH scheme."""
    match = _NAME.fullmatch(filename)
    if match is None:
        return None
    infected = match["infected"]
    return CellName(infected or match["person"], match["slide"], infected is not None)


def patient_of(slide: str) -> str:
    """The patient that a slide's key tells, as in CellName; empty where it is no such key."""
    match = _PERSON.match(slide)
    return (match["infected"] or match["person"]) if match else ""


def folded(name: str) -> str:
    """A name as it compares: without case, its accents composed (a Mac takes them apart)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def original(name: str) -> str:
    """What an altered copy is a copy of; names are `folded`, and have no extension."""
    return _COPY.sub("", name)
