"""What `make hub` writes is a model repository that the hub reads."""

import json

from huggingface_hub import ModelCard

from malaria import bundle
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


def test_a_synthetic_bundle_never_claims_real_cells(model_bundle, tmp_path):
    hub.write(model_bundle, tmp_path / "hub", "NIH/NLM cells")
    results = ModelCard.load(tmp_path / "hub/README.md").data.eval_results
    assert results
    assert all(one.dataset_name.startswith("Synthetic sample (") for one in results)
