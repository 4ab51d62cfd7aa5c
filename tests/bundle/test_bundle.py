"""Bundles: they judge cells, reject other pictures with a reason, and refuse to load if damaged."""

import csv
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit, logit

from malaria import bundle, files, paths, predict
from malaria.cells import audit, images
from malaria.errors import UserError
from malaria.predict import inputs, labelled
from tests.support import bundles
from tests.support.project import ROOT, change
from tests.support.revision_folders import edited

WHITE = np.full((90, 90, 3), 255, np.uint8)
# Not of a single colour, or the audit would set it aside.
WHITE[0, 0] = 250


@pytest.fixture(scope="module")
def cells() -> list[images.Pixels]:
    return [pixels for pixels, _ in bundles.drawn_cells()]


@pytest.fixture(scope="module")
def gated(gated_bundle) -> bundle.Bundle:
    return bundle.load(gated_bundle, threads=1)


@pytest.fixture
def labelled_folder(cells, tmp_path) -> Path:
    """A folder of twelve synthetic cells in class folders, and a white picture under Uninfected."""
    for number, cell in enumerate(cells):
        folder = tmp_path / "cells" / ("Uninfected" if number % 2 else "Parasitized")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell).save(folder / f"{number}.png")
    Image.fromarray(WHITE).save(tmp_path / "cells/Uninfected/white.png")
    return tmp_path / "cells"


def test_a_gate_takes_cells_and_turns_away_the_rest_with_a_reason(gated, cells):
    said = gated.run([*cells, WHITE])
    assert said.rejected[:-1] == (None,) * len(cells)
    assert "too little black around the cell" in said.rejected[-1]


def test_pictures_and_whole_numbers_are_judged_as_the_array_that_they_are(gated, cells):
    same = [cells[0], Image.fromarray(cells[0]), cells[0].astype(np.float32), cells[0].tolist()]
    assert len(set(gated.predict(same))) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cell: cell / 255,
        lambda cell: cell.astype(np.uint16) * 257,
        lambda cell: cell[..., 0],
        lambda cell: np.moveaxis(cell, 2, 0),
        lambda cell: np.where(cell > 99, np.nan, 1.0),
        lambda cell: cell[:1],
        lambda _: "cell.png",
    ],
)
def test_what_is_no_cell_of_rgb_is_refused_in_a_sentence(gated, cells, spoil):
    with pytest.raises(ValueError, match=r"^A cell is .* but must be an RGB array \(height, width, 3\)"):
        gated.predict([spoil(cells[0])])


def test_a_rejected_picture_has_no_probability(gated, cells):
    p = gated.predict([cells[0], WHITE])
    assert 0 <= p[0] <= 1
    assert np.isnan(p[1])


def test_a_bundle_without_a_gate_takes_everything(model_bundle, gated, cells):
    without = bundle.load(model_bundle)
    assert (without.record.schema_version, gated.record.schema_version) == (1, 2)
    assert without.manifest == ""
    said = without.run([*cells, WHITE])
    assert said.rejected == (None,) * 13
    assert (said.p_network == gated.run([*cells, WHITE]).p_network).all()


def test_a_bundle_explains_a_cell_by_a_map_where_it_has_one(mapped_bundle, model_bundle, cells):
    explained = bundle.load(mapped_bundle).explain(cells[0])
    assert (explained.shape, explained.dtype) == ((10, 10), np.float32)
    assert bundle.load(model_bundle).explain(cells[0]) is None
    assert bundle.load(model_bundle).run(cells).maps is None


def test_a_crops_own_shape_counts_also_where_it_was_resized_before(gated, cells):
    strip = np.tile(cells[0], (1, 3, 1))
    reason = gated.run([strip]).rejected[0]
    assert "times as long as wide" in reason
    whole = dataclasses.replace(gated.prepare(cells[0]), shape=strip.shape[:2])
    assert gated.run_prepared([whole]).rejected == (reason,)


def test_batches_of_many_cells_are_judged_as_each_alone(gated, cells):
    many = [*cells, WHITE] * 11
    said = gated.run(many)
    assert len(said.rejected) == len(said.p_network) == len(many) > 2 * 64
    assert said.rejected == gated.run([*cells, WHITE]).rejected * 11


def test_no_pictures_give_no_answers(gated):
    said = gated.run([])
    assert (len(said.p_parasitized), said.features.shape[0], said.rejected) == (0, 0, ())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), r"gate\.npz is not the file .* hash differs"),
        (lambda file: file.unlink(), r"is incomplete, without gate\.npz"),
    ],
    ids=["changed", "missing"],
)
def test_a_gate_that_is_not_the_exported_one_is_refused(gated_bundle, tmp_path, spoil, sentence):
    copy = shutil.copytree(gated_bundle, tmp_path / "bundle")
    spoil(copy / bundle.PARTS["gate"])
    with pytest.raises(UserError, match=sentence):
        bundle.load(copy)
    # Also in a bundle without a manifest, as earlier versions wrote it.
    (copy / bundle.MANIFEST).unlink()
    with pytest.raises(UserError, match=sentence):
        bundle.load(copy)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (bundle.RECORD, '"temperature": 1.0', '"temperature": 9.0'),
        (bundle.RECORD, '"threshold": 0.8', '"threshold": 0.1'),
        (bundle.CARD, "# Model card", "Approved for diagnosis"),
        (bundle.MANIFEST, bundle.CARD, "card.md"),
        (bundle.MANIFEST, bundle.CARD, f"../bundle/{bundle.CARD}"),
        (bundle.MANIFEST, "  ", " "),
    ],
)
def test_a_change_to_any_file_of_a_bundle_is_refused(gated_bundle, tmp_path, file, old, new):
    changed = shutil.copytree(gated_bundle, tmp_path / "bundle") / file
    content = changed.read_text()
    assert old in content
    changed.write_text(content.replace(old, new))
    with pytest.raises(UserError, match=rf"{file} is (damaged|not the file that {bundle.MANIFEST} lists)"):
        bundle.load(changed.parent)


def test_the_manifest_is_one_that_sha256sum_reads_and_its_hash_stands_for_the_bundle(gated_bundle):
    subprocess.run(["sha256sum", "--check", "--strict", bundle.MANIFEST], cwd=gated_bundle, check=True)
    assert bundle.load(gated_bundle).manifest == files.sha256(gated_bundle / bundle.MANIFEST)


def test_the_pretrained_bundles_manifest_lists_all_that_apps_read():
    folder = ROOT / paths.PRETRAINED
    assert bundle.load(folder).manifest
    listed = {line.split("  ")[1] for line in (folder / bundle.MANIFEST).read_text().splitlines()}
    beside = {bundle.MANIFEST, paths.LABEL_AUDIT.name, paths.MODEL.name}
    assert listed == {file.name for file in folder.iterdir()} - beside


@pytest.mark.parametrize(
    "changed", [{"labels": ["Parasitized", "Uninfected"]}, {"positive": "Uninfected"}, {"resize": "bilinear"}]
)
def test_a_bundle_of_other_labels_or_another_resize_is_refused(model_bundle, tmp_path, changed):
    other = edited(model_bundle, tmp_path / "other", **changed)
    with pytest.raises(UserError, match="names other labels or another resize than this version knows"):
        bundle.load(other)


def test_a_record_with_another_size_than_its_network_takes_is_refused(model_bundle, tmp_path):
    other = edited(model_bundle, tmp_path / "other", input_size=77)
    with pytest.raises(
        UserError, match=r"other/bundle\.json describes cells of 77 px, but the network takes \d"
    ):
        bundle.load(other)


def test_another_network_than_the_described_one_is_refused(model_bundle, tmp_path):
    copy = shutil.copytree(model_bundle, tmp_path / "bundle")
    (copy / bundle.NETWORK).write_bytes((copy / bundle.NETWORK).read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"network\.tflite is not the network that .* describes"):
        bundle.load(copy)


def test_probabilities_are_those_of_the_network_at_its_temperature(model_bundle, tmp_path, cells):
    warmer = bundle.load(edited(model_bundle, tmp_path / "warmer", temperature=2.0), threads=1).run(cells)
    assert warmer.p_parasitized == pytest.approx(expit(logit(warmer.p_network) / 2), abs=1e-6)


def test_judging_needs_neither_tensorflow_nor_what_only_the_pipeline_has(gated_bundle, tmp_path):
    Image.fromarray(WHITE).save(tmp_path / "white.png")
    barred = ("tensorflow", "keras", "sklearn", "scipy", "pandas", "dvc", "jinja2")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({barred!r}))\n"
        f"sys.argv[1:] = ['predict', {str(tmp_path)!r}, '--model', {str(gated_bundle)!r}]\n"
        "from malaria.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (row,) = csv.DictReader(done.stdout.splitlines())
    assert row["status"] == "rejected"


def test_predict_gives_a_rejected_picture_its_reason_alone(gated, cells, tmp_path):
    Image.fromarray(cells[0]).save(tmp_path / "a.png")
    Image.fromarray(np.tile(cells[0], (1, 3, 1))).save(tmp_path / "b.png")
    one, strip = predict.predict(gated, inputs.find([str(tmp_path)]))
    assert (one.status, one.reason) == ("ok", "")
    assert (strip.status, strip.p_parasitized, strip.category) == ("rejected", None, None)
    assert "times as long as wide" in strip.reason


def test_evaluate_counts_what_is_turned_away_and_says_so(gated, labelled_folder):
    scores = labelled.evaluate(gated, labelled_folder)
    assert scores["cells"] == 12
    reason = "too little black around the cell: not one cell, cut out on black"
    assert scores["rejected"] == {"of": 13, "cells": 1, "parasitized": 0, "reasons": {reason: 1}}
    assert "1 of 13 images were turned away" in labelled.as_text(scores)
    assert f"1: {reason}" in labelled.as_text(scores)


def test_evaluate_tells_the_network_before_calibration_from_the_network_after(gated, labelled_folder):
    warmer = dataclasses.replace(gated, record=gated.record.model_copy(update={"temperature": 2.0}))
    as_it_says, milder = labelled.evaluate(gated, labelled_folder), labelled.evaluate(warmer, labelled_folder)
    for figure in ("brier", "ece"):
        before = milder[f"{figure}_uncalibrated"]["value"]
        assert before == pytest.approx(as_it_says[figure]["value"], abs=1e-6)
        assert before != pytest.approx(milder[figure]["value"], abs=1e-3)


def test_evaluate_s_brier_score_is_that_of_the_rows_that_it_writes(gated, labelled_folder, tmp_path):
    scores = labelled.evaluate(gated, labelled_folder, out=str(tmp_path / "rows.csv"))
    rows = pd.read_csv(tmp_path / "rows.csv").query("status == 'ok'")
    expected = np.mean((rows.p_parasitized - (rows.label == "Parasitized")) ** 2)
    assert scores["brier"]["value"] == pytest.approx(expected, abs=1e-5)


def test_evaluate_says_so_where_all_are_turned_away(gated, labelled_folder):
    for number, file in enumerate(sorted(labelled_folder.rglob("*.png"))):
        Image.fromarray(WHITE - np.uint8(number)).save(file)
    with pytest.raises(UserError, match="the model turns away all 13 images"):
        labelled.evaluate(gated, labelled_folder)


def test_evaluate_counts_what_the_audit_sets_aside_and_says_so(gated, labelled_folder, tmp_path, monkeypatch):
    shutil.copy(labelled_folder / "Uninfected/1.png", labelled_folder / "Uninfected/again.png")
    (labelled_folder / "Parasitized/note.png").write_text("no image")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change(tmp_path, {"audit.max_quarantined": 0.5})
    monkeypatch.chdir(tmp_path)
    scores = labelled.evaluate(gated, labelled_folder)
    assert scores["cells"] == 12
    assert scores["set_aside"] == {
        "of": 15,
        "images": 2,
        "reasons": {audit.DUPLICATE: 1, images.NO_IMAGE: 1},
    }
    assert "2 of 15 images were set aside" in labelled.as_text(scores)
    assert f"1: {images.NO_IMAGE}" in labelled.as_text(scores)


def test_evaluate_stops_where_too_much_is_set_aside(gated, labelled_folder):
    (labelled_folder / "Parasitized/note.png").write_text("no image")
    sentence = r"1 of 14 images \(7.1%\) were set aside, more than the 2.0% .*: put the data right or raise"
    with pytest.raises(UserError, match=sentence):
        labelled.evaluate(gated, labelled_folder)


def test_evaluate_says_so_where_no_image_can_be_read(gated, labelled_folder):
    for file in labelled_folder.rglob("*.png"):
        file.write_text(f"no image: {file}")
    with pytest.raises(UserError, match="cells holds no Uninfected image that can be used"):
        labelled.evaluate(gated, labelled_folder)


@pytest.mark.parametrize(
    ("name", "what"), [("none", "not there, on this machine"), ("note.txt", "no folder, zip or tar")]
)
def test_evaluate_blames_the_argument_that_was_wrong(gated, tmp_path, name, what):
    (tmp_path / "note.txt").write_text("no cells")
    with pytest.raises(UserError, match=f"^{tmp_path / name} is {what}: name a folder or archive"):
        labelled.evaluate(gated, tmp_path / name)
