"""Figures of a bundle on another laboratory's cells, checked with scikit-learn and by hand."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from malaria import bundle, paths
from malaria.fields import synthetic
from malaria.labels import PARASITIZED
from malaria.params import load_params
from malaria.predict import external
from tests.support import bundles
from tests.support.project import ROOT

SETTINGS = load_params(ROOT / "params.yaml")
LENIENT = SETTINGS.model_copy(update={"audit": SETTINGS.audit.model_copy(update={"max_quarantined": 0.5})})


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of 40 synthetic cells of eight fields, and of one picture that is no cell."""
    folder = tmp_path_factory.mktemp("laboratory")
    from app import pictures

    for number, (pixels, infected) in enumerate(pictures.cells(40, seed=5)):
        file = folder / ("Parasitized" if infected else "Uninfected") / f"field{number % 8}__{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 60, 3)).astype(np.uint8)).save(
        folder / "Uninfected/field0__99.png"
    )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bundle.load(bundles.violet(tmp_path_factory.mktemp("bundle") / "violet", gated=True))


def test_figures_are_those_of_the_set(given, model):
    found = external.judge(model, given, SETTINGS)
    files = sorted(given.rglob("*.png"))
    said = model.run([np.asarray(Image.open(file)) for file in files])
    infected = np.array([file.parent.name == "Parasitized" for file in files])
    p, away = said.p_parasitized, np.array([reason is not None for reason in said.rejected])
    assert (found["cells"], found["parasitized"], found["fields"]) == (41, infected.sum(), 8)
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(infected, p), abs=1e-6)
    assert found["sensitivity"]["value"] == pytest.approx((p[infected] >= 0.5).mean(), abs=1e-6)
    assert found["false_positives"]["value"] == pytest.approx(1000 * (p[~infected] >= 0.5).mean(), abs=1e-3)
    assert found["turned_away_uninfected"]["value"] == pytest.approx(away[~infected].mean(), abs=1e-6)
    assert away.any()
    threshold = np.sort(p[infected])[int(np.floor(0.05 * infected.sum()))]
    expected = 1000 * (p[~infected] >= threshold).mean()
    assert found["false_positives_at_95"]["value"] == pytest.approx(expected, abs=1e-3)
    assert found["auc"]["low"] <= found["auc"]["value"] <= found["auc"]["high"]


def test_cells_that_were_learned_from_are_counted(given, model):
    seen = external.judge(model, given, SETTINGS)["known"]
    assert seen == 0
    assert f"{model.folder.name}: 41 cells" in external.as_text(
        {model.folder.name: external.judge(model, given, SETTINGS)}
    )


def test_what_was_left_out_of_a_set_is_said(given, model, tmp_path):
    own = shutil.copytree(given, tmp_path / "own")
    shutil.copytree(own / "Uninfected", own / "trophozoites")
    (own / "Uninfected/empty.png").touch()
    found = external.judge(model, own, LENIENT)
    count = len(list((own / "trophozoites").iterdir()))
    left_out = [f"{count} files in trophozoites, which is no class folder", "1 images set aside: empty file"]
    assert found["left_out"] == left_out
    for entry in left_out:
        assert f"  left out: {entry}" in external.as_text({"own": found}).splitlines()


def test_a_set_of_one_class_gives_what_it_can(given, model, tmp_path):
    healthy = tmp_path / "healthy"
    healthy.mkdir()
    (healthy / "Uninfected").symlink_to(given / "Uninfected")
    found = external.judge(model, healthy, SETTINGS)
    assert found["parasitized"] == 0
    assert found["auc"] == {"value": None, "low": None, "high": None}
    assert found["false_positives"]["value"] is not None
    assert "AUC" in external.as_text({"healthy": found})


def test_what_a_network_says_counts_whether_or_not_the_check_turns_the_cell_away(given, model):
    without = dataclasses.replace(model, fitted_ood=None)
    one, other = (external.judge(asked, given, SETTINGS) for asked in (model, without))
    assert one["auc"] == other["auc"]
    assert other["turned_away_uninfected"]["value"] == 0


def test_cells_of_annotated_fields_are_found_cut_and_judged(model, tmp_path):
    listed, infected = [], 0
    for number in range(2):
        pixels, marks = synthetic.draw(
            np.random.default_rng(number), size=(480, 360), cells=25, infected=0.4, diameter=60
        )
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        boxes = [{"type": mark.label, "bbox": dict(zip("xywh", mark.box, strict=True))} for mark in marks]
        listed.append({"image_name": f"{number}.png", "objects": boxes})
        infected += sum(mark.label == PARASITIZED for mark in marks)
    (tmp_path / "annotations.json").write_text(json.dumps(listed))
    found = external.judge(model, tmp_path, SETTINGS)
    assert found["fields"] == 2
    assert 0.6 * infected < found["parasitized"] <= infected
    assert found["sensitivity"]["value"] is not None


@pytest.mark.long
@pytest.mark.real_cells
@pytest.mark.parametrize("name", ["iml-vivax", "bbbc041-vivax"])
def test_the_pretrained_bundle_has_learned_from_no_laboratory_that_judges_it(shared_cells, name):
    pretrained = bundle.load(ROOT / paths.PRETRAINED, threads=1)
    found = external.judge(pretrained, shared_cells.parent / "crops" / f"{name}.zip", SETTINGS)
    assert found["known"] == 0
    assert found["foreign"] is True
    assert found["turned_away_uninfected"]["value"] < 0.05
    assert found["auc"]["value"] > 0.96


@pytest.mark.long
@pytest.mark.real_cells
def test_what_the_pretrained_bundle_has_learned_from_is_known(shared_cells):
    pretrained = bundle.load(ROOT / paths.PRETRAINED, threads=1)
    found = external.judge(pretrained, shared_cells.parent / "crops/raabin.zip", SETTINGS)
    assert found["known"] == found["cells"] == 414
