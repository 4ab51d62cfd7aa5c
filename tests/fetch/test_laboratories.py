"""Sets of other laboratories: found in a folder, read, and named."""

import shutil

import numpy as np
import pytest
from PIL import Image

from malaria.cells import synthetic
from malaria.errors import UserError
from malaria.fetch import laboratories
from malaria.params import load_params
from tests.support.project import ROOT

SETTINGS = load_params(ROOT / "params.yaml")


@pytest.fixture
def folder(tmp_path):
    """Two sets: `east` with both classes, cut out of two fields; `west.zip` with healthy cells only."""
    random = np.random.default_rng(0)
    for path in (
        *(f"east/Parasitized/field{number % 2}__{number}.png" for number in range(4)),
        *(f"east/Uninfected/field{number % 2}__{number}.png" for number in range(4, 8)),
        *(f"west/uninfected/{number}.png" for number in range(3)),
    ):
        file = tmp_path / "sets" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn = synthetic.draw(random, synthetic.stain(random), "Parasitized" in path)
        Image.fromarray(drawn).save(file)
    west = tmp_path / "sets/west"
    shutil.make_archive(str(west), "zip", west.parent, "west")
    shutil.rmtree(west)
    return tmp_path / "sets"


def test_folders_and_archives_are_sets_and_bear_their_names(folder):
    (folder / ".gitignore").write_text("*")
    (folder / "note.txt").write_text("no set")
    (folder / "@eaDir").mkdir()
    assert list(laboratories.sets(folder)) == ["east", "west"]
    (folder / "north").symlink_to("a drive that is not plugged in")
    with pytest.raises(UserError, match="north is a link to nothing: bring what it points to, or delete it"):
        laboratories.sets(folder)


def test_two_sets_of_one_name_are_refused_and_none_is_lost(folder):
    shutil.copy(folder / "west.zip", folder / "west.2020.zip")
    with pytest.raises(UserError, match=r"west\.2020\.zip and west\.zip"):
        laboratories.sets(folder)


@pytest.mark.parametrize("name", ["north.7z", "north.RAR", "north.tar.zst", "north.zip", "north.tgz"])
def test_a_set_in_an_archive_that_cannot_be_read_is_no_silent_loss(folder, name):
    (folder / name).write_bytes(b"an archive of another kind, or what a server sent in its place")
    with pytest.raises(UserError, match=rf"{name} is an archive that cannot be read: pack it as zip or tar"):
        laboratories.sets(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="gone is not there: make the folder"):
        laboratories.sets(tmp_path / "gone")


def test_cells_of_one_field_belong_together_and_others_stand_alone(folder, tmp_path):
    sets = laboratories.sets(folder)
    east, west = (laboratories.place(given, tmp_path / name, SETTINGS)[0] for name, given in sets.items())
    assert set(east.patient) == {"east field0", "east field1"}
    assert len(set(west.patient)) == len(west) == 3
    assert set(west.label) == {"Uninfected"}
    assert all((tmp_path / path).is_file() for path in [*east.path, *west.path])


def test_patients_csv_beside_the_class_folders_names_the_patients(folder, tmp_path):
    (folder / "east/patients.csv").write_text("file,patient\nfield0__0.png,Ada\nfield0__2.png,Ada\n")
    east, _ = laboratories.place(folder / "east", tmp_path / "east", SETTINGS)
    assert east.patient.value_counts().to_dict() == {"east Ada": 2, "east field0": 2, "east field1": 4}


def test_what_is_left_out_is_not_learned_from(folder):
    settings = SETTINGS.laboratories.model_copy(update={"folder": str(folder), "leave_out": ("west",)})
    assert list(laboratories.to_train_on(settings)) == ["east"]
    wrong = settings.model_copy(update={"leave_out": ("north",)})
    with pytest.raises(UserError, match=r"leave_out names north, but .* has no such set"):
        laboratories.to_train_on(wrong)
