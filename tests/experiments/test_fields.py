"""experiments.fields: the figures of the cell finder, on a drawn field whose cells lie apart."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import fields
from malaria.fields import annotations


@pytest.fixture
def folder(tmp_path):
    """A set of one field with ten cells: seven boxed as red cells, one as parasitised, one as a white cell.

    The tenth has no box, and one box of a parasitised cell is on bare ground.
    """
    pixels = np.full((480, 640, 3), 225, np.uint8)
    down, across = np.mgrid[:480, :640]
    middles = [(x, y) for y in (100, 240) for x in range(60, 640, 120)]
    for x, y in middles:
        pixels[np.hypot(across - x, down - y) < 30] = (200, 135, 180)
    (tmp_path / "fields").mkdir()
    Image.fromarray(pixels).save(tmp_path / "fields" / "one.png")
    kinds = ["red blood cell"] * 7 + ["ring", "leukocyte"]
    marked = [*zip(kinds, middles, strict=False), ("ring", (300, 400))]
    objects = [
        {"type": kind, "bbox": {"x": x - 30, "y": y - 30, "w": 60, "h": 60}} for kind, (x, y) in marked
    ]
    (tmp_path / "annotations.json").write_text(json.dumps([{"image_name": "one.png", "objects": objects}]))
    return tmp_path


def test_cells_are_counted_as_found_missed_and_extra(folder):
    (field,) = annotations.read(folder, {}, annotations.UNLABELLED)
    found = fields.score(field)
    del found["seconds"]
    assert found == {
        "matched": 8, "extra": 2, "missed": 1, "parasitized": 2, "parasitized_found": 1, "boxes": True
    }  # fmt: skip


def test_the_figures_of_a_set_are_those_worked_out_by_hand():
    scores = pd.DataFrame(
        {
            "matched": [8, 10], "extra": [2, 0], "missed": [0, 2], "boxes": [True, True],
            "parasitized": [2, 3], "parasitized_found": [1, 3], "seconds": [0.1, 0.3],
        }
    )  # fmt: skip
    text = fields.as_text(scores)
    # 18 of 20 annotated and of 20 found ones; counts are off by 2/8 and 2/12.
    for figure in (
        "recall 0.900",
        "precision 0.900",
        "F1 0.900",
        "20.8%",
        "24.2%",
        "4 of 5",
        "0.20 s",
        "0.30 s",
    ):
        assert figure in text


def test_a_set_is_measured_and_its_worst_fields_are_drawn(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fields, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr("sys.argv", ["fields", str(folder)])
    fields.main()
    assert "F1 0.842" in capsys.readouterr().out  # 16 / 19
    with Image.open(tmp_path / "reports" / f"{folder.name}-1.png") as drawn:
        assert drawn.size == (640, 480)


def test_a_set_in_another_form_beside_one_in_annotations_json_is_measured_too(
    folder, tmp_path, monkeypatch, capsys
):
    sets = tmp_path / "sets"
    shutil.copytree(folder / "fields", sets / "east/fields")
    shutil.copy(folder / "annotations.json", sets / "east")
    shutil.copytree(folder / "fields", sets / "west")
    (sets / "west/boxes.csv").write_text("image,label,x,y,w,h\none.png,ring,30,70,60,60\n")
    (sets / "notes").mkdir()
    monkeypatch.setattr("sys.argv", ["fields", str(sets), "--worst", "0"])
    fields.main()
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["east", "west"]
