"""Source `fields`: annotated fields become labelled crops, and what is left out is counted."""

import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from malaria import params
from malaria.cells import patients
from malaria.errors import UserError
from malaria.fetch import sources
from malaria.fields import synthetic
from malaria.labels import PARASITIZED, UNINFECTED
from tests.support.project import ROOT


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of two synthetic fields and annotations, in which every third cell has no box."""
    folder = tmp_path_factory.mktemp("given")
    listed = []
    for number in range(2):
        pixels, marks = synthetic.draw(
            np.random.default_rng(number), size=(480, 360), cells=25, infected=0.4, diameter=60
        )
        Image.fromarray(pixels).save(folder / f"slide{number}_f.png")
        boxes = [{"type": mark.label, "bbox": dict(zip("xywh", mark.box, strict=True))} for mark in marks]
        listed.append({"image_name": f"slide{number}_f.png", "objects": boxes[::3] + boxes[1::3]})
    (folder / "annotations.json").write_text(json.dumps(listed))
    return folder


def fetched(given, folder, **fields):
    data = params.load_params(ROOT / "params.yaml").data
    settings = data.fields.model_copy(update=fields)
    chosen = data.model_copy(update={"source": "fields", "folder": str(given), "fields": settings})
    return sources.write(chosen, folder / "raw"), folder / "raw"


def test_cells_become_crops_with_their_field_and_box(given, tmp_path):
    known, raw = fetched(given, tmp_path)
    table = pd.read_csv(raw / "fields.csv")
    assert known.cells == len(table) == len(list(raw.glob("*/*.png")))
    for row in table.itertuples():
        with Image.open(raw / row.path) as crop:
            assert crop.size == (row.w, row.h)
    assert set(table.field) == {"slide0_f.png", "slide1_f.png"}


def test_a_cell_without_annotation_is_uninfected_only_where_all_are_annotated(given, tmp_path):
    some, _ = fetched(given, tmp_path / "some")
    every, raw = fetched(given, tmp_path / "all", complete=True)
    left_out = [entry for entry in some.ignored if "are not annotated" in entry]
    assert left_out == [f"{every.cells - some.cells:,} cells that were found and are not annotated"]
    assert every.cells > some.cells
    assert (raw / UNINFECTED).is_dir()


@pytest.mark.parametrize("share", [0.3, 2.0])
def test_a_cell_with_an_annotated_parasite_on_it_is_never_called_uninfected(given, tmp_path, share):
    _, raw = fetched(given, tmp_path / "before", complete=True)
    own = shutil.copytree(given, tmp_path / "own")
    listed = json.loads((given / "annotations.json").read_text())
    infected = [one["bbox"] for field in listed for one in field["objects"] if one["type"] == PARASITIZED]
    # A box of the parasite alone, or of a clump, matches no cell.
    for box in infected[1:]:
        for at, size in ("xw", "yh"):
            box[at] += (1 - share) * box[size] / 2
            box[size] *= share
    (own / "annotations.json").write_text(json.dumps(listed))
    known, now = fetched(own, tmp_path, complete=True)
    assert len(list((now / UNINFECTED).iterdir())) <= len(list((raw / UNINFECTED).iterdir()))
    assert any(
        entry.endswith("cells that do not fit the parasitised one annotated there") for entry in known.ignored
    )


def test_patients_come_from_the_pattern_else_from_the_field(given, tmp_path):
    _, raw = fetched(given, tmp_path / "one", patient=re.compile("(slide[0-9])_"))
    assert set(patients.read(raw).values()) == {"slide0", "slide1"}
    _, raw = fetched(given, tmp_path / "two")
    assert set(patients.read(raw).values()) == {"slide0_f", "slide1_f"}


def test_patients_csv_beside_annotations_names_fields_and_rows_that_name_none_are_said(given, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(given, own)
    (own / "annotations.json").rename(own / "slides.json")
    whose = own / "patients.csv"
    whose.write_text("file,patient\nslide0_f.png,Ada\nlost.png,Ben\n")
    # Without annotations.json all .json, .xml and .csv files are read, but not patients.csv.
    (own / "slides.json").write_text(json.dumps(as_coco(json.loads((own / "slides.json").read_text()))))
    known, raw = fetched(own, tmp_path)
    assert set(patients.read(raw).values()) == {"Ada", "slide1_f"}
    assert known.ignored[-1] == "1 rows of patients.csv that name no image (such as lost.png)"
    whose.write_text("file,patient\nlost.png,Ben\n")
    with pytest.raises(UserError, match=r"no row of patients\.csv names an image"):
        fetched(own, tmp_path / "again")


def as_coco(listed):
    kinds = sorted({thing["type"] for field in listed for thing in field["objects"]})
    return {
        "images": [{"id": number, "file_name": field["image_name"]} for number, field in enumerate(listed)],
        "categories": [{"id": kinds.index(kind), "name": kind} for kind in kinds],
        "annotations": [
            {"image_id": n, "category_id": kinds.index(thing["type"]), "bbox": list(thing["bbox"].values())}
            for n, field in enumerate(listed)
            for thing in field["objects"]
        ],
    }


def test_fields_of_one_name_in_two_folders_are_of_two_patients(given, tmp_path):
    listed = json.loads((given / "annotations.json").read_text())
    for number, field in enumerate(listed):
        (tmp_path / f"own/{number}").mkdir(parents=True)
        shutil.copy(given / field["image_name"], tmp_path / f"own/{number}/f.png")
        field["image_name"] = f"{number}/f.png"
    (tmp_path / "own/annotations.json").write_text(json.dumps(listed))
    _, raw = fetched(tmp_path / "own", tmp_path)
    assert set(patients.read(raw).values()) == {"0/f", "1/f"}


def test_copies_of_a_field_that_roboflow_made_are_of_one_patient(given, tmp_path):
    (tmp_path / "own").mkdir()
    listed = json.loads((given / "annotations.json").read_text())
    for number, field in enumerate(listed):
        name = f"f_png.rf.{number:032x}.PNG"
        shutil.copy(given / field["image_name"], tmp_path / "own" / name)
        field["image_name"] = name
    (tmp_path / "own/annotations.json").write_text(json.dumps(listed))
    _, raw = fetched(tmp_path / "own", tmp_path)
    assert set(patients.read(raw).values()) == {"f"}


def test_an_annotated_cell_that_is_not_found_is_counted(given, tmp_path):
    listed = json.loads((given / "annotations.json").read_text())
    listed[0]["objects"].append({"type": PARASITIZED, "bbox": {"x": 4, "y": 4, "w": 9, "h": 9}})
    before = [e for e in fetched(given, tmp_path / "before")[0].ignored if "not found" in e]
    for file in given.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "annotations.json").write_text(json.dumps(listed))
    after = [e for e in fetched(tmp_path, tmp_path / "after")[0].ignored if "not found" in e]
    count = int(before[0].split()[0]) if before else 0
    assert after == [f"{count + 1} annotated cells that were not found"]


def test_images_without_annotations_are_counted(given, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(given, own / "fields")
    (own / "labels").mkdir()
    listed = json.loads((own / "fields/annotations.json").read_text())
    (own / "fields/annotations.json").unlink()
    for field in listed:
        field["image_name"] = f"../fields/{field['image_name']}"
    (own / "labels/all.json").write_text(json.dumps(listed))
    for name in ("new.jpg", "._new.jpg", "mask.PNG"):
        (own / "fields" / name).touch()
    known, raw = fetched(f"{own}/labels/..", tmp_path)
    assert "2 images without annotations" in known.ignored
    alone, _ = fetched(own / "labels/all.json", tmp_path / "of one file")
    assert not [entry for entry in alone.ignored if "images" in entry]
    assert set(patients.read(raw).values()) == {"fields/slide0_f", "fields/slide1_f"}


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb"])
def test_a_field_whose_name_no_table_can_hold_is_refused(given, tmp_path, name):
    odd = tmp_path / "odd" / os.fsdecode(name)
    odd.parent.mkdir()
    shutil.copy(given / "slide0_f.png", odd.with_suffix(".png"))
    odd.with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (odd.parent / "classes.txt").write_text("ring\n")
    with pytest.raises(UserError, match=r"control characters in the name of (caf\\udce9|a\\nb)\.png: rename"):
        fetched(odd.parent, tmp_path)


def test_a_field_that_was_made_smaller_after_it_was_annotated_is_refused(given, tmp_path):
    own = shutil.copytree(given, tmp_path / "own")
    with Image.open(own / "slide1_f.png") as field:
        field.resize((320, 240)).save(own / "slide1_f.png")
    with pytest.raises(
        UserError, match=r"slide1_f\.png: a mark at \d+, \d+ lies outside of its 320 x 240 px"
    ):
        fetched(own, tmp_path)


def test_fields_without_a_cell_of_a_class_are_refused(given, tmp_path):
    listed = json.loads((given / "annotations.json").read_text())
    for field in listed:
        field["objects"] = [o for o in field["objects"] if o["type"] == UNINFECTED]
        (tmp_path / field["image_name"]).write_bytes((given / field["image_name"]).read_bytes())
    (tmp_path / "annotations.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match="has no cell that is Parasitized"):
        fetched(tmp_path, tmp_path / "out")
