"""Annotated fields become labelled crops; whatever does not become one is counted."""

import json
import re

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
    """Two drawn fields; the boxes of every third cell are left out."""
    folder = tmp_path_factory.mktemp("given")
    listed = []
    for number in range(2):
        pixels, marks = synthetic.draw(
            np.random.default_rng(number), size=(480, 360), cells=25, infected=0.4, diameter=60
        )
        Image.fromarray(pixels).save(folder / f"slide{number}_f.png")
        boxes = [{"type": mark.name, "bbox": dict(zip("xywh", mark.box, strict=True))} for mark in marks]
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


def test_patients_come_from_the_pattern_else_from_the_field(given, tmp_path):
    _, raw = fetched(given, tmp_path / "one", patient=re.compile("(slide[0-9])_"))
    assert set(patients.read(raw).values()) == {"slide0", "slide1"}
    _, raw = fetched(given, tmp_path / "two")
    assert set(patients.read(raw).values()) == {"slide0_f", "slide1_f"}


def test_patients_come_from_a_table_beside_annotations_of_any_form(given, tmp_path):
    rows = ["image,label,x,y,w,h"]
    for field in json.loads((given / "annotations.json").read_text()):
        (tmp_path / field["image_name"]).write_bytes((given / field["image_name"]).read_bytes())
        for thing in field["objects"]:
            rows.append(",".join(map(str, (field["image_name"], thing["type"], *thing["bbox"].values()))))
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    (tmp_path / "patients.csv").write_text("file,patient\nslide0_f.png,P7\n")
    _, raw = fetched(tmp_path, tmp_path / "out")
    assert set(patients.read(raw).values()) == {"P7", "slide1_f"}


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


def test_fields_without_a_cell_of_a_class_are_refused(given, tmp_path):
    listed = json.loads((given / "annotations.json").read_text())
    for field in listed:
        field["objects"] = [o for o in field["objects"] if o["type"] == UNINFECTED]
        (tmp_path / field["image_name"]).write_bytes((given / field["image_name"]).read_bytes())
    (tmp_path / "annotations.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match="has no cell that is Parasitized"):
        fetched(tmp_path, tmp_path / "out")
