"""The patient of each cell: how rows of patients.csv match files, and cells without a known patient."""

import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from malaria import tables
from malaria.cells import patients
from malaria.errors import UserError

FILE = "Parasitized/sub/Zélle 1.png"


@pytest.mark.parametrize(
    "row",
    [
        FILE,
        "sub/Zélle 1.png",
        "Zélle 1.png",
        "infected/sub/Zélle 1.png",
        "ZÉLLE 1.PNG",
        "Zélle 1",
        "Zélle 1.tif",
        unicodedata.normalize("NFD", FILE),
    ],
)
def test_a_row_names_its_file_in_whatever_case_composition_and_extension(row):
    for came in ("infected/sub/Zélle 1.png", unicodedata.normalize("NFD", "infected/sub/Zélle 1.png")):
        assert patients.of_files({row: "Ada"}, {FILE: came}, "own") == ({FILE: "Ada"}, ())


def test_the_more_precise_row_wins_and_rows_that_name_nothing_are_told():
    came_as = {"Parasitized/1.png": "ring/1.png", "Uninfected/1.png": "clean/1.png"}
    rows = {"1.png": "Ada", "ring/1.png": "Ben", "2.png": "Cem"}
    assert patients.of_files(rows, came_as, "own") == (
        {"Parasitized/1.png": "Ben", "Uninfected/1.png": "Ada"},
        ("1 rows of patients.csv that name no image (such as 2.png)",),
    )


def test_an_exact_row_wins_over_one_that_differs_in_case():
    came_as = {"Uninfected/1.png": "a.png", "Uninfected/2.png": "A.png", "Uninfected/3.png": "a.PNG"}
    assert patients.of_files({"a.png": "Ada", "A.png": "Ben"}, came_as, "own") == (
        {"Uninfected/1.png": "Ada", "Uninfected/2.png": "Ben"},
        (),
    )


def test_rows_of_other_extensions_that_disagree_on_the_patient_name_nothing():
    with pytest.raises(UserError, match=r"no row of patients\.csv names an image"):
        patients.of_files({"a.jpg": "Ada", "a.tif": "Ben"}, {"Uninfected/a.png": "a.png"}, "own")


def test_an_altered_copy_is_of_its_originals_patient():
    came_as = {
        f"Uninfected/{name}": name for name in ("cell_1_rot90.png", "cell_1-flip_2.png", "cell_11.png")
    }
    found, _ = patients.of_files({"cell_1.png": "Ada"}, came_as, "own")
    assert set(found) == {"Uninfected/cell_1_rot90.png", "Uninfected/cell_1-flip_2.png"}


def test_cells_of_no_known_patient_stand_alone_but_for_their_copies():
    names = ["a.png", "a_rot90.png", "b_rot90.png", "c.png"]
    cells = pd.DataFrame({"path": names, "patient": ["", "", "", "Ada"], "status": tables.OK})
    found = patients.accepted(cells)
    assert list(found.columns) == list(cells.columns)
    own = found.patient
    assert own.nunique() == 3
    assert own[0] == own[1]
    assert list(patients.is_known(own)) == [False, False, False, True]


def test_copies_that_roboflow_made_are_of_one_patient_also_without_their_original():
    copies = [f"Uninfected/a_{kind}.rf.{number:032x}.jpg" for kind in ("png", "JPG") for number in (1, 2)]
    cells = pd.DataFrame({"path": [*copies, "Uninfected/b.jpg"], "patient": "", "status": tables.OK})
    assert patients.accepted(cells).patient.nunique() == 2
    assert patients.of_files({"a.png": "Ada"}, dict(zip(copies, copies, strict=True)), "own") == (
        dict.fromkeys(copies, "Ada"),
        (),
    )


def test_a_table_that_is_a_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "patients.csv").symlink_to(tmp_path / "moved.csv")
    with pytest.raises(UserError, match=r"patients\.csv is a link to nothing"):
        patients.read(tmp_path)


def test_a_byte_order_mark_and_a_patient_called_na_are_read(tmp_path):
    (tmp_path / "patients.csv").write_bytes(b"\xef\xbb\xbffile,patient\nmine.png,NA\n")
    assert patients.read(Path(tmp_path)) == {"mine.png": "NA"}
