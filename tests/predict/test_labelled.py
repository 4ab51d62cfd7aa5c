"""`malaria evaluate`: figures on labelled cells, with and without those that the model was made with."""

import csv
import dataclasses
import errno
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import pictures
from malaria import bundle
from malaria.__main__ import main
from malaria.bundle.ood import FOREIGN
from malaria.command import run_and_exit
from malaria.errors import UserError
from malaria.predict import labelled
from tests.support import bundles
from tests.support.project import ROOT, run


@pytest.fixture
def own(tmp_path, pngs) -> Path:
    """The twelve synthetic cells in class folders; `model_bundle` was made with the first four."""
    for number, (content, (_, infected)) in enumerate(zip(pngs, bundles.drawn_cells(), strict=True)):
        file = tmp_path / "own" / ("Parasitized" if infected else "Uninfected") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "own"


def test_cells_that_the_model_learned_from_are_counted_and_left_out_beside(own, model_bundle):
    scores = labelled.evaluate(bundle.load(model_bundle), own)
    assert scores["cells"] == 12
    assert scores["known"]["cells"] == 4
    assert scores["known"]["without"]["cells"] == 8
    text = labelled.as_text(json.loads(json.dumps(scores)))
    assert "without known cells" in text
    assert "4 of 12 cells are among those that the model learned from" in text


def test_a_cell_with_a_note_is_judged_all_the_same(own, model_bundle):
    file = sorted(own.glob("*/*.png"))[0]
    with Image.open(file) as page:
        page.save(file.with_suffix(".tif"), save_all=True, append_images=[page.copy()])
    file.unlink()
    scores = labelled.evaluate(bundle.load(model_bundle), own)
    assert (scores["cells"], scores["rejected"]["cells"]) == (12, 0)


def test_where_all_cells_are_known_no_figures_are_left(own, model_bundle):
    for file in own.glob("*/*.png"):
        if int(file.stem) > 3:
            file.unlink()
    scores = labelled.evaluate(bundle.load(model_bundle), own)
    assert scores["known"] == {"cells": 4, "without": None}
    assert "4 of 4 cells are among those" in labelled.as_text(scores)


def test_the_error_for_a_cell_that_may_not_be_read_names_the_cell_and_not_the_table(
    own, model_bundle, tmp_path, monkeypatch, capsys
):
    def closed(source, _):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    monkeypatch.setattr(shutil, "copyfile", closed)
    asked = ["evaluate", str(own), "--model", str(model_bundle), "--out", str(tmp_path / "rows.csv")]
    monkeypatch.setattr(sys, "argv", ["malaria", *asked])
    with pytest.raises(SystemExit, match="1"):
        run_and_exit(main)
    said = capsys.readouterr().err
    assert "png: Permission denied" in said
    assert "rows.csv" not in said


def test_a_table_that_cannot_be_written_is_named(own, model_bundle, tmp_path, monkeypatch, capsys):
    (tmp_path / "note.txt").touch()
    for out, sentence in (
        ("note.txt/rows.csv", "note.txt/rows.csv cannot be written"),
        ("own", "a folder: name"),
    ):
        asked = ["evaluate", str(own), "--model", str(model_bundle), "--out", str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", ["malaria", *asked])
        with pytest.raises(SystemExit, match="1"):
            run_and_exit(main)
        assert sentence in capsys.readouterr().err


def test_a_row_of_a_labelled_cell_has_its_label_and_its_patient(own, model_bundle, tmp_path):
    (own / "patients.csv").write_text("".join(["file,patient\n", *(f"{n}.png,=P{n}\n" for n in range(12))]))
    labelled.evaluate(bundle.load(model_bundle), own, out=str(tmp_path / "rows.csv"))
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "p_parasitized", "category", "status", "reason", "label", "patient"]
    assert [(row["label"], row["patient"]) for row in rows] == [
        (label, f"'=P{Path(name).stem}") for label, _, name in (row["path"].partition("/") for row in rows)
    ]


def test_cells_that_come_as_a_split_are_all_judged(own, model_bundle):
    for side, cells in (("train", range(8)), ("test", range(8, 12))):
        for file in own.glob("*/*.png"):
            if int(file.stem) in cells:
                (own / side / file.parent.name).mkdir(parents=True, exist_ok=True)
                file.rename(own / side / file.parent.name / file.name)
    for label in ("Parasitized", "Uninfected"):
        (own / label).rmdir()
    scores = labelled.evaluate(bundle.load(model_bundle), own)
    assert (scores["cells"], scores["came_as"]) == (12, {"train": 8, "val": 0, "test": 4})


@pytest.mark.parametrize(("limit", "foreign"), [(0.0, True), (np.inf, False)])
def test_a_batch_of_a_foreign_stain_is_said_before_any_figure(tmp_path, gated_bundle, limit, foreign):
    for number, (pixels, infected) in enumerate(pictures.cells(60, seed=5)):
        file = tmp_path / ("Parasitized" if infected else "Uninfected") / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    model = bundle.load(gated_bundle)
    patients = {
        "patients_centre": np.zeros(13, np.float32),
        "patients_whitening": np.eye(13, dtype=np.float32),
        "patients_limit": np.array([limit], np.float32),
    }
    model = dataclasses.replace(model, fitted_ood=dataclasses.replace(model.fitted_ood, **patients))
    scores = labelled.evaluate(model, tmp_path)
    assert scores["foreign"] is foreign
    assert labelled.as_text(scores).startswith(FOREIGN) is foreign


def test_evaluate_takes_a_folder_beside_this_one_and_needs_no_tensorflow(own, model_bundle):
    (own.parent / "here").mkdir()
    (own.parent / "here/params.yaml").write_text("of: another project")
    program = (
        "import sys; sys.argv = ['malaria', 'evaluate', '../own', '--model', sys.argv[1]]\n"
        "sys.modules.update(dict.fromkeys(('tensorflow', 'keras', 'dvc', 'splitfolders', 'jinja2')))\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from malaria.__main__ import command; command()"
    )
    done = run(sys.executable, "-c", program, str(model_bundle), cwd=own.parent / "here")
    assert "12 cells, patients not known" in done.stdout


@pytest.mark.parametrize("lacking", ["pandas", "scipy", "sklearn", "yaml"])
def test_what_evaluate_needs_and_is_not_installed_is_named(own, monkeypatch, lacking):
    monkeypatch.setitem(sys.modules, lacking, None)
    monkeypatch.setattr(sys, "argv", ["malaria", "evaluate", str(own)])
    with pytest.raises(UserError, match=rf"^`evaluate` needs {lacking}: pip install"):
        main()


def test_a_class_folder_that_is_named_twice_is_refused(own, monkeypatch):
    given = ["--classes", "sick=Parasitized", "well=Uninfected", "sick=Uninfected"]
    monkeypatch.setattr(sys, "argv", ["malaria", "evaluate", str(own), *given])
    with pytest.raises(UserError, match=r"^--classes names sick twice, as Parasitized and Uninfected: name"):
        main()


def test_class_folders_may_be_named_one_after_the_other(own, model_bundle, monkeypatch, capsys):
    for name, label in (("sick", "Parasitized"), ("well", "Uninfected")):
        (own / label).rename(own / name)
    given = ["--classes", "sick=Parasitized", "--classes", "well=Uninfected", "--model", str(model_bundle)]
    monkeypatch.setattr(sys, "argv", ["malaria", "evaluate", str(own), *given])
    main()
    assert "12 cells" in capsys.readouterr().out
