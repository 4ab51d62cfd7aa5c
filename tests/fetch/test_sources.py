"""Sources `sample` and `folder`: cells end up in class folders, and errors are one sentence."""

import json
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from malaria import params
from malaria.cells import names, patients
from malaria.errors import UserError
from malaria.fetch import archives, class_folders, sample, sources
from malaria.files import sha256
from malaria.predict import inputs
from tests.support.permissions import bound_by_permissions

ROOT = Path(__file__).parents[2]


def folder_data(folder: Path, **classes: str) -> params.Data:
    shipped = params.load_params(ROOT / "params.yaml").data
    return shipped.model_copy(update={"source": "folder", "folder": str(folder), "classes": classes})


@pytest.fixture
def own(tmp_path) -> Path:
    """A user's folder with one small image a class."""
    for label, shade in (("parasitized", 90), ("UNINFECTED", 160)):
        (tmp_path / "own" / label).mkdir(parents=True)
        Image.new("RGB", (20, 20), (shade,) * 3).save(tmp_path / "own" / label / "a.png")
    return tmp_path / "own"


def hashes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_draws_the_same_bytes_and_another_does_not(data, raw, tmp_path):
    sources.write(data, tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(raw)
    other = data.model_copy(update={"sample": data.sample.model_copy(update={"seed": 2})})
    sources.write(other, tmp_path / "other")
    assert not set(hashes(tmp_path / "other").values()) & set(hashes(raw).values())


def test_the_sample_has_the_cells_and_patients_that_were_asked_for(data, raw):
    cells = [names.parse(path.name) for path in raw.rglob("*.png")]
    assert len(cells) == data.sample.cells
    assert len({cell.patient for cell in cells}) == data.sample.patients
    assert {cell.infected for cell in cells} == {True, False}


def test_every_infected_patient_has_cells_of_both_classes_and_controls_have_one(raw):
    patients = {
        label: {names.parse(path.name).patient for path in (raw / label).iterdir()}
        for label in ("Parasitized", "Uninfected")
    }
    assert {patient[0] for patient in patients["Parasitized"]} == {"P"}
    assert patients["Parasitized"] < patients["Uninfected"]


def test_crops_have_the_sizes_of_the_nih_set():
    sides = [max(size) for size in _sizes(params.SampleData(patients=20, cells=300, seed=3))]
    assert min(sides) >= 46
    assert max(sides) <= 394
    assert 115 < np.mean(sides) < 150


def _sizes(asked: params.SampleData) -> list[tuple[int, int]]:
    from malaria.cells import synthetic

    random = np.random.Generator(np.random.Philox(asked.seed))
    looks = [synthetic.stain(random) for _ in range(asked.patients)]
    return [
        synthetic.draw(random, looks[i % asked.patients], i % 2 == 0).shape[:2] for i in range(asked.cells)
    ]


def test_mean_colour_does_not_give_the_class_away(data, tmp_path):
    drawn = params.SampleData(patients=16, cells=480, seed=5)
    sources.write(data.model_copy(update={"sample": drawn}), tmp_path / "raw")
    paths = sorted((tmp_path / "raw").rglob("*.png"))
    crops = [np.asarray(Image.open(path)) for path in paths]
    y = [path.parent.name == "Parasitized" for path in paths]
    for colour in (
        [crop.mean(axis=(0, 1)) for crop in crops],
        [crop[crop.any(axis=2)].mean(axis=0) for crop in crops],
    ):
        linear = make_pipeline(StandardScaler(), LogisticRegression())
        p = cross_val_predict(linear, np.array(colour), y, cv=5, method="predict_proba")[:, 1]
        assert roc_auc_score(y, p) < 0.75


def test_more_cells_change_no_patients_stain(data):
    few, many = (
        sample.plan(data.sample.model_copy(update={"cells": cells})) for cells in (data.sample.cells, 4000)
    )
    assert [(patient.number, patient.infected) for patient in few] == [
        (patient.number, patient.infected) for patient in many
    ]
    assert sum(patient.parasitized + patient.uninfected for patient in many) == 4000


def test_class_folders_are_found_whatever_their_case_and_with_spaces_around(own, tmp_path):
    (own / "parasitized").rename(own / "parasitized ")
    provenance = sources.write(folder_data(own), tmp_path / "raw")
    assert provenance.cells == 2
    assert (tmp_path / "raw/Parasitized/a.png").is_file()
    assert (tmp_path / "raw/Uninfected/a.png").is_file()
    assert json.loads((tmp_path / "raw/provenance.json").read_text())["checksum"] == provenance.checksum


def test_other_class_names_are_mapped(own, tmp_path):
    (own / "parasitized").rename(own / "positive")
    sources.write(folder_data(own, Positive="Parasitized"), tmp_path / "raw")
    assert (tmp_path / "raw/Parasitized/a.png").is_file()


def test_litter_and_a_second_copy_are_left_out_and_said(own, tmp_path):
    nested = own / "own" / "parasitized"
    nested.mkdir(parents=True)
    (nested / "a.png").write_bytes(b"again")
    (own / "parasitized" / "Thumbs.db").write_bytes(b"x")
    provenance = sources.write(folder_data(own), tmp_path / "raw")
    assert provenance.cells == 2
    assert provenance.ignored == (
        "1 files that file browsers leave behind",
        "1 further folders with the names of the class folders, deeper down",
    )


def test_files_beside_the_class_folders_are_left_out_and_said(own, tmp_path):
    (own / "loose.png").write_bytes(b"x")
    (own / ".DS_Store").write_bytes(b"x")
    (own / "patients.csv").write_text("file,patient\nUNINFECTED/a.png,anna\n")
    provenance = sources.write(folder_data(own), tmp_path / "raw")
    assert provenance.ignored == ("1 files beside the class folders, such as loose.png",)


def test_links_to_images_are_followed_and_other_links_are_counted(own, tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "elsewhere.png")
    (own / "parasitized/b.png").symlink_to(tmp_path / "elsewhere.png")
    (own / "parasitized/c.png").symlink_to(tmp_path / "gone.png")
    (own / "parasitized/d").symlink_to(own / "UNINFECTED")
    provenance = sources.write(folder_data(own), tmp_path / "raw")
    copied = tmp_path / "raw/Parasitized/b.png"
    assert (provenance.cells, provenance.ignored) == (3, ("2 links to folders, or to nothing",))
    assert copied.read_bytes() == (tmp_path / "elsewhere.png").read_bytes()
    assert not copied.is_symlink()


def test_a_folder_that_cannot_be_listed_is_no_folder_without_cells(own, tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    monkeypatch.chdir(own)
    closed = Path("parasitized/patient7")
    closed.mkdir()
    closed.chmod(0)
    with (
        bound_by_permissions(),
        pytest.raises(UserError, match=r"patient7 cannot be read \(Permission denied\): check"),
    ):
        class_folders.place(Path(), Path("nowhere"), shutil.copy, "own", {})
    closed.chmod(0o755)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_gives_the_same_cells_as_its_folder(own, tmp_path, kind):
    archive = tmp_path / f"own.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as pack:
            for path in own.rglob("*.png"):
                pack.write(path, path.relative_to(own.parent))
    else:
        with tarfile.open(archive, "w:gz") as pack:
            pack.add(own, "own")
    by_archive = sources.write(folder_data(archive), tmp_path / "a")
    assert by_archive.checksum == sources.write(folder_data(own), tmp_path / "b").checksum


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda own: (own / "UNINFECTED").rename(own / "else"),
            r"has no folder for Uninfected \(folders found: else, par",
        ),
        (lambda own: (own / "parasitized/a.png").unlink(), "the class folder parasitized holds no file"),
        (lambda own: (own / "Parasitized").mkdir(), "has two folders for Parasitized"),
        (lambda own: own.rename(own.with_name("gone")), "which is not there"),
        (
            lambda own: (own / "patients.csv").write_text("a,b\n"),
            "has the columns a, b, but needs file,patient",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_a_sentence(own, tmp_path, spoil, sentence):
    spoil(own)
    with pytest.raises(UserError, match=sentence):
        sources.write(folder_data(own), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_folder_without_class_folders_names_what_it_found(tmp_path):
    (tmp_path / "own/dogs").mkdir(parents=True)
    with pytest.raises(UserError, match=re.escape("(folders found: dogs)")):
        sources.write(folder_data(tmp_path / "own"), tmp_path / "raw")


def test_patients_csv_comes_along_with_the_paths_of_now_and_rows_that_name_no_image_are_said(own, tmp_path):
    (own / "patients.csv").write_text("file,patient\nUNINFECTED/a,anna\nlost.png,ben\n")
    provenance = sources.write(folder_data(own), tmp_path / "raw")
    assert (tmp_path / "raw/patients.csv").read_text() == "file,patient\nUninfected/a.png,anna\n"
    assert provenance.ignored == ("1 rows of patients.csv that name no image (such as lost.png)",)


@pytest.mark.parametrize("name", ["at 3.04\u202fPM.png", "a\u00a0b.png"])
def test_the_patient_of_a_cell_with_an_unusual_space_in_its_name_is_kept(own, tmp_path, name):
    (own / "UNINFECTED/a.png").rename(own / "UNINFECTED" / name)
    (own / "patients.csv").write_text(f"file,patient\n{name},anna\n")
    sources.write(folder_data(own), tmp_path / "raw")
    assert (tmp_path / "raw/patients.csv").read_text() == f"file,patient\nUninfected/{name},anna\n"


def test_a_file_name_that_is_no_utf8_is_fetched(own, tmp_path):
    (own / "UNINFECTED/a.png").rename(own / "UNINFECTED" / os.fsdecode(b"latin-\xfc.png"))
    assert sources.write(folder_data(own), tmp_path / "raw").cells == 2


def test_tables_of_train_and_test_that_disagree_on_a_patient_stop_the_fetch(own, tmp_path):
    sides = split_up(own, "train", "test")
    for side, patient in (("train", "anna"), ("test", "ben")):
        (sides / side / "patients.csv").write_text(f"file,patient\na.png,{patient}\n")
    with pytest.raises(UserError, match=r"two tables patients\.csv give a\.png to two patients"):
        sources.write(folder_data(sides), tmp_path / "raw")


def test_a_patients_csv_of_other_cells_stops_the_fetch(own, tmp_path):
    (own / "patients.csv").write_text("file,patient\nlost.png,ben\n")
    with pytest.raises(UserError, match=r"no row of patients\.csv names an image \(lost\.png is one, UNI"):
        sources.write(folder_data(own), tmp_path / "raw")


def split_up(own: Path, *sides: str) -> Path:
    """Copy the class folders of `own` into a folder for each of `sides`; return their parent folder."""
    for side in sides:
        shutil.copytree(own, own.with_name("split") / side)
    return own.with_name("split")


def test_cells_that_come_as_train_val_and_test_are_all_taken_each_below_its_side(own, tmp_path):
    found = sources.write(folder_data(split_up(own, "Training", "valid", "test")), tmp_path / "raw")
    assert (found.cells, found.ignored) == (6, ())
    taken = {path.relative_to(tmp_path / "raw").as_posix() for path in tmp_path.glob("raw/*/*/*")}
    sides = ("train", "val", "test")
    assert taken == {f"{label}/{side}/a.png" for label in ("Parasitized", "Uninfected") for side in sides}


@pytest.mark.real_cells
@pytest.mark.parametrize("layout", ["train_val_test", "patients_nfd"])
def test_layouts_that_people_have_are_read_whole(shared_cells, tmp_path, layout):
    found = sources.write(folder_data(shared_cells.parent / f"cases/layouts/{layout}.zip"), tmp_path / "raw")
    assert (found.cells, found.ignored) == (12, ())
    if layout == "patients_nfd":
        assert len(patients.read(tmp_path / "raw")) == 12


def test_class_folders_in_a_waste_basket_are_none(own, tmp_path):
    for name in ("parasitized", "UNINFECTED"):
        shutil.copytree(own / name, own.parent / ".Trash" / name)
    assert sources.write(folder_data(own.parent), tmp_path.with_name("raw")).cells == 2


def test_class_folders_in_several_places_that_are_no_split_are_not_chosen_among(own, tmp_path):
    with pytest.raises(UserError, match="in monday and in test: put them into one folder, with a patients"):
        sources.write(folder_data(split_up(own, "monday", "test")), tmp_path / "raw")


def test_several_folders_for_a_class_keep_their_names_and_a_folder_of_no_class_is_named(own, tmp_path):
    shutil.copytree(own / "parasitized", own / "ring")
    shutil.copytree(own / "parasitized", own / "debris")
    found = sources.write(folder_data(own, ring="Parasitized", parasitized="Parasitized"), tmp_path / "raw")
    assert {path.parent.name for path in tmp_path.glob("raw/Parasitized/*/a.png")} == {"ring", "parasitized"}
    assert (found.cells, found.ignored) == (3, ("1 files in debris, which is no class folder",))


def test_a_misspelt_class_is_named_with_the_folder_that_was_meant(own, tmp_path):
    shutil.copytree(own / "parasitized", own / "trophozoite")
    with pytest.raises(UserError, match=r"data\.classes names trophozoit, but .* has trophozoite: correct"):
        sources.write(folder_data(own, trophozoit="Parasitized"), tmp_path / "raw")


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        (
            "../cells",
            r"is \.\./cells, outside of this repository, .*: name it by its whole path, /.*/cells\.",
        ),
        ("gs://bucket/cells", "is gs://bucket/cells: copy it to this machine and name it there"),
    ],
)
def test_a_folder_that_dvc_would_not_find_again_is_refused(own, tmp_path, monkeypatch, folder, sentence):
    own.rename(tmp_path / "cells")
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    data = folder_data(own).model_copy(update={"folder": folder})
    with pytest.raises(UserError, match=sentence):
        sources.write(data, Path("raw"))


@pytest.mark.parametrize("name", ["../out.png", "..\\out.png", "/out.png", "a/../../out.png", "C:/out.png"])
def test_an_archive_cannot_write_outside_its_folder(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as pack:
        pack.writestr(name, b"x")
    with pytest.raises(UserError, match="outside its own folder"):
        archives.unpack(tmp_path / "slip.zip", tmp_path / "in")


def test_a_zip_with_the_separators_of_windows_has_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        pack.writestr("Parasitized\\", b"")
        pack.writestr("Parasitized\\a.png", b"x")
    assert [Path(item.path).parts[-2:] for item in inputs.find([str(tmp_path)])] == [("Parasitized", "a.png")]
    archives.unpack(tmp_path / "cells.zip", tmp_path / "in")
    assert (tmp_path / "in/Parasitized/a.png").read_bytes() == b"x"


@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_names_in_a_zip_that_do_not_say_their_encoding_are_those_of_a_mac_or_of_windows(tmp_path, encoding):
    stored = "ü.png".encode(encoding)
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        pack.writestr("~" * len(stored), b"x")
    content = (tmp_path / "cells.zip").read_bytes().replace(b"~" * len(stored), stored)
    (tmp_path / "cells.zip").write_bytes(content)
    assert [str(one.path) for one in archives.members(tmp_path / "cells.zip")] == ["ü.png"]
    (item,) = inputs.find([str(tmp_path / "cells.zip")])
    assert (Path(item.path).name, item.read()) == ("ü.png", b"x")


@pytest.mark.filterwarnings("ignore:Duplicate name")  # the test makes one
def test_an_archive_that_holds_a_name_twice_loses_no_file_in_silence(tmp_path):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        pack.writestr("a.png", b"x")
        pack.writestr("a.png", b"y")
    with pytest.raises(UserError, match=r"cells\.zip holds a\.png twice: pack it again"):
        archives.unpack(tmp_path / "cells.zip", tmp_path / "in")


def test_a_file_may_be_named_by_the_time_of_day(tmp_path):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        pack.writestr("2026-11-29 10:15:03.png", b"x")
    assert [str(one.path) for one in archives.members(tmp_path / "cells.zip")] == ["2026-11-29 10:15:03.png"]


def test_links_and_bombs_in_archives_are_refused(tmp_path):
    with tarfile.open(tmp_path / "link.tar", "w") as pack:
        link = tarfile.TarInfo("Parasitized/a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        pack.addfile(link)
    with pytest.raises(UserError, match="no regular file"):
        archives.unpack(tmp_path / "link.tar", tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("a.png", bytes(20_000_000))
    with pytest.raises(UserError, match="as decompression bombs do"):
        archives.unpack(tmp_path / "bomb.zip", tmp_path / "in")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_packed_in_a_way_that_nothing_bounds_is_refused_unread(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "small.zip", "w", method) as pack:
        pack.writestr("Parasitized/a.png", b"a")
    with pytest.raises(UserError, match="neither stored nor deflated"):
        archives.unpack(tmp_path / "small.zip", tmp_path / "in")
    assert not list((tmp_path / "in").rglob("*.png"))


@pytest.mark.parametrize("name", [".", "\0"])
def test_a_member_without_a_name_is_no_traceback(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "nameless.zip", "w") as pack:
        pack.writestr("~", b"a")
    content = (tmp_path / "nameless.zip").read_bytes()
    (tmp_path / "nameless.zip").write_bytes(content.replace(b"~", name.encode()))
    with pytest.raises(UserError):
        archives.unpack(tmp_path / "nameless.zip", tmp_path / "in")


def test_a_damaged_archive_is_said_to_be_damaged(own, tmp_path):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as pack:
        pack.write(own / "parasitized/a.png", "a.png")
    spoilt = bytearray((tmp_path / "own.zip").read_bytes())
    spoilt[40:60] = bytes(20)
    (tmp_path / "own.zip").write_bytes(spoilt)
    with pytest.raises(UserError, match="is damaged or encrypted"):
        archives.unpack(tmp_path / "own.zip", tmp_path / "in")
