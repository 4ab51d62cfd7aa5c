"""File names of the NIH scheme, in all its spellings, and names that only look like it."""

import ast
import csv
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malaria.cells import names

SPELLINGS = [
    ("C33P1thinF_IMG_20150619_114756a_cell_179.png", "P1", "C33P1thinF"),
    ("C1_thinF_IMG_20150604_104722_cell_9.png", "C1", "C1_thinF"),
    ("C6NThinF_IMG_20150609_121955_cell_1.png", "C6", "C6NThinF"),
    ("C7NthinF_IMG_20150611_104404_cell_112.png", "C7", "C7NthinF"),
    ("C201ThinF_IMG_20150930_142848_cell_106.png", "C201", "C201ThinF"),
    ("C3thin_original_IMG_20150608_162835_cell_101.png", "C3", "C3thin_original"),
    ("C37BP2_thinF_IMG_20150620_131423a_cell_92.png", "P2", "C37BP2_thinF"),
    ("C51AP12thinF_IMG_20150724_153313_cell_100.png", "P12", "C51AP12thinF"),
    ("C61P22N_ThinF_IMG_20150818_112252_cell_213.png", "P22", "C61P22N_ThinF"),
    ("C68P29N_ThinF_IMG_20150819_133350_cell_7.png", "P29", "C68P29N_ThinF"),
    ("C39P4thinF_original_IMG_20150622_105554_cell_10.png", "P4", "C39P4thinF_original"),
    ("C42P5thin_original_IMG_20150623_134426_cell_185.png", "P5", "C42P5thin_original"),
    ("C47P8thin_Original_Motic_IMG_20150714_093512_cell_169.png", "P8", "C47P8thin_Original_Motic"),
    ("C47P8thinOriginalOlympusCX21_IMG_20150717_172748_cell_158.png", "P8", "C47P8thinOriginalOlympusCX21"),
    ("C70P31_ThinF_IMG_20150813_130332_cell_100.png", "P31", "C70P31_ThinF"),
    ("C100P61ThinF_IMG_20150918_144104_cell_162.png", "P61", "C100P61ThinF"),
    ("C167P128ReThinF_IMG_20151201_105102_cell_245.png", "P128", "C167P128ReThinF"),
    ("C173P134NThinF_IMG_20151130_115339_cell_256.png", "P134", "C173P134NThinF"),
]


@pytest.mark.parametrize(("filename", "patient", "slide"), SPELLINGS)
def test_every_spelling_of_the_set_tells_patient_and_slide(filename, patient, slide):
    assert names.parse(filename) == names.CellName(patient, slide)
    assert names.parse(filename).infected == ("P" in slide)


@pytest.mark.parametrize("ending", [".jpg", f"_png.rf.{7:032x}.jpg"])
def test_another_image_format_and_a_copy_that_roboflow_made_tell_the_same(ending):
    name = f"C33P1thinF_IMG_20150619_114756a_cell_179{ending}"
    assert names.parse(name) == names.CellName("P1", "C33P1thinF")


@pytest.mark.parametrize(
    "filename",
    [
        "",
        "cell_179.png",
        "P1thinF_IMG_20150619_114756a_cell_179.png",
        "C33P1_IMG_20150619_114756a_cell_179.png",
        "CP1thinF_IMG_20150619_114756a_cell_179.png",
        "C33PthinF_IMG_20150619_114756a_cell_179.png",
        "C33P1thinF_IMG_2015_114756a_cell_179.png",
        "C33P1thinF_IMG_20150619_114756a_cell_.png",
        "C33P1thinF_IMG_20150619_114756a_cell_179",
        "C33P1thinF_IMG_20150619_114756a_cell_179.png.part",
        "C33P1thinF_IMG_20150619_114756a_cell_179 (1).png",
        "._C33P1thinF_IMG_20150619_114756a_cell_179.png",
        "my C33P1thinF_IMG_20150619_114756a_cell_179.png",
        "Parasitized/C33P1thinF_IMG_20150619_114756a_cell_179.png",
        "C33P1thinF_IMG_20150619_114756a_cell_179.png\n",
        "C٣٣P١thinF_IMG_20150619_114756a_cell_179.png",  # noqa: RUF001
    ],
)
def test_a_name_outside_the_scheme_tells_nothing(filename):
    assert names.parse(filename) is None


numbers = st.integers(1, 9999)
tails = st.sampled_from(["thinF", "ThinF", "_thinF", "NThinF", "N_ThinF", "ReThinF", "thinF_original"])
photographs = st.from_regex(r"IMG_[0-9]{8}_[0-9]{6}[ab]?", fullmatch=True)


@given(person=numbers, letter=st.sampled_from(["", "A", "B"]), patient=numbers, tail=tails,
       photograph=photographs, cell=numbers)  # fmt: skip
def test_an_infected_patient_is_told_by_the_p_number_alone(person, letter, patient, tail, photograph, cell):
    slide = f"C{person}{letter}P{patient}{tail}"
    assert names.parse(f"{slide}_{photograph}_cell_{cell}.png") == names.CellName(f"P{patient}", slide)


@given(person=numbers, tail=tails, photograph=photographs, cell=numbers)
def test_a_control_is_told_by_the_c_number(person, tail, photograph, cell):
    slide = f"C{person}{tail}"
    assert names.parse(f"{slide}_{photograph}_cell_{cell}.png") == names.CellName(f"C{person}", slide)


@given(st.text())
def test_any_text_is_read_without_an_error(text):
    parsed = names.parse(text)
    assert parsed is None or text.startswith(parsed.slide)


def slides_of(mapping: Path) -> dict[str, str]:
    """The slide key of each file name in a mapping file of the NLM.

    A line of it holds a key, a Python list of file names, and padding commas.
    """
    slides = {}
    with mapping.open(encoding="utf-8", newline="") as stream:
        for key, *rest in csv.reader(stream):
            for name in ast.literal_eval(",".join(rest).rstrip(",")):
                assert name not in slides
                slides[name] = key
    return slides


@pytest.fixture(scope="module")
def slides(shared_cells) -> dict[str, str]:
    """The slide key of each of the 27,558 file names, from the NLM's mapping files."""
    both = [
        slides_of(shared_cells / f"patientid_cellmapping_{name}.csv")
        for name in ("parasitized", "uninfected")
    ]
    return both[0] | both[1]


@pytest.mark.real_cells
def test_the_whole_set_has_27558_names_of_201_slides(slides):
    assert (len(slides), len(set(slides.values()))) == (27_558, 201)


@pytest.mark.real_cells
def test_every_slide_key_agrees_with_the_mapping_files(slides):
    assert [name for name, key in slides.items() if names.parse(name).slide != key] == []


@pytest.mark.real_cells
def test_the_whole_set_is_of_150_infected_patients_and_50_controls(slides):
    people = {(parsed.patient, parsed.infected) for parsed in map(names.parse, slides)}
    assert Counter(infected for _, infected in people) == {True: 150, False: 50}
