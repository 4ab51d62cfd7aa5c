"""`make hub` writes a model repository that the Hugging Face Hub can read."""

import json

import pytest
from huggingface_hub import ModelCard

from malaria import bundle
from malaria.errors import UserError
from remote import hub
from tests.conftest import ROOT

PRETRAINED = ROOT / "models/pretrained"


def test_the_card_says_what_each_figure_was_measured_on(tmp_path):
    hub.write(PRETRAINED, tmp_path / "hub", "NIH/NLM cells")
    card = ModelCard.load(tmp_path / "hub/README.md")
    scores = json.loads((PRETRAINED / "figures.json").read_text())["sides"]["out of fold"]
    aucs = {
        (one.dataset_split, one.dataset_config): one.metric_value
        for one in card.data.eval_results
        if one.metric_type == "auc"
    }
    assert aucs == {
        ("out of fold", "labels as given"): scores["auc"]["value"],
        ("out of fold", "labels without doubtful"): scores["labels"]["without_doubtful"]["auc"]["value"],
        ("out of fold", "labels doubtful flipped"): scores["labels"]["doubtful_flipped"]["auc"]["value"],
    }
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "image-classification")
    assert "no medical device" in card.text


def test_the_repository_is_a_bundle(tmp_path):
    hub.write(PRETRAINED, tmp_path / "hub", "NIH/NLM cells")
    assert bundle.load(tmp_path / "hub").record == bundle.load(PRETRAINED).record
    assert not (tmp_path / "hub/label_audit.csv").exists()


def test_a_folder_with_other_files_is_no_place_for_the_repository(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match=r"would lose thesis\.txt"):
        hub.write(PRETRAINED, tmp_path, "NIH/NLM cells")
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_a_repository_takes_the_place_of_an_earlier_one(tmp_path):
    for _ in range(2):
        hub.write(PRETRAINED, tmp_path / "hub", "NIH/NLM cells")
    assert bundle.load(tmp_path / "hub").record == bundle.load(PRETRAINED).record


def test_a_synthetic_bundle_never_claims_real_cells(model_bundle, tmp_path):
    hub.write(model_bundle, tmp_path / "hub", "NIH/NLM cells")
    results = ModelCard.load(tmp_path / "hub/README.md").data.eval_results
    assert results
    assert all(one.dataset_name.startswith("Synthetic sample (") for one in results)
