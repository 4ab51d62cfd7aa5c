"""Read file names of the NIH/NLM set: the patient, and the slide that the cell was cut from."""

import re
import unicodedata
from dataclasses import dataclass

# C33P1thinF_IMG_20150619_114756a_cell_179.png: slide, photograph (date, time, perhaps a letter) and
# cell. In the slide, the number after C counts people, and infected people also have a number after P,
# sometimes with a letter before it (C37BP2_thinF); then follows "thin", in more than a dozen spellings. An
# altered copy names the change after the cell's number: cell_179_rot90; Roboflow's, cell_179_png.rf.<hash>.
_PERSON = re.compile(r"(?P<person>C[0-9]+)(?:[A-Z]?(?P<infected>P[0-9]+))?")
_NAME = re.compile(
    rf"(?P<slide>{_PERSON.pattern}_?(?:N_?|Re)?[Tt]hin[0-9A-Za-z_]*?)"
    r"_IMG_[0-9]{8}_[0-9]{6}[a-z]?_cell_[0-9]+(?:[_-][0-9A-Za-z]+)*(?:\.rf\.[0-9A-Za-z]+)?\.[0-9A-Za-z]+"
)

# Endings of altered copies: cell_167_rot90 belongs to the patient of cell_167.
_COPY_ENDING = re.compile(
    r"([_-](rot|flip|hflip|vflip|mirror|aug|crop|zoom|shear|shift|noise|blur|bright|dark|copy)[a-z]*[_-]?[0-9]*)+$"
)

# Kept out of CSV files and pages: control characters, line ends, and surrogates (bytes that are no UTF-8).
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class CellName:
    """The patient and the slide that a file name gives.

    patient: `P<n>` for an infected patient, `C<n>` for a control. slide: the NLM's key of the slide; one
    patient has two slides.
    """

    patient: str
    slide: str

    @property
    def infected(self) -> bool:
        """Whether the patient is; the cell itself need not be parasitised."""
        return self.patient.startswith("P")


def parse(filename: str) -> CellName | None:
    """Read a file name, without its folders; None when it does not follow the NIH scheme."""
    match = _NAME.fullmatch(filename)
    return CellName(match["infected"] or match["person"], match["slide"]) if match else None


def patient_of(slide: str) -> str:
    """The patient in a slide's key, as in CellName; empty if `slide` is not such a key."""
    match = _PERSON.match(slide)
    return (match["infected"] or match["person"]) if match else ""


def folded(name: str) -> str:
    """Normalise a name for comparison: fold case, strip spaces, compose accents (macOS decomposes them)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.strip()).casefold())


def without_copy_suffix(name: str) -> str:
    """The name without the ending of an altered copy; names are `folded` and have no extension."""
    return _COPY_ENDING.sub("", name)
