"""The model card describes the run that made it: its split, figures and labels."""

import numpy as np
import pandas as pd
import pytest

from malaria import bundle
from malaria.bundle import card
from malaria.evaluate import evaluation
from malaria.params import load_params
from tests.support.project import ROOT

SETTINGS = load_params(ROOT / "params.yaml").evaluate.model_copy(
    update={"resamples": 100, "specificities": (0.97, 0.995)}
)


def rendered(
    folder,
    by_patient: bool,
    laboratories: dict | None = None,
    names: tuple[str, ...] = ("val", "test"),
    doubtful: frozenset = frozenset(),
    origin: str = "",
    **of_last: float | None,
) -> str:
    """The card of a record with operating points, for 200 cells of 10 patients as val and test.

    Args:
        of_last: values that replace these figures on the last of `names`.
    """
    random = np.random.default_rng(0)
    y = np.arange(200) % 2
    cells = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(200)],
            "patient": [f"P{number // 20}" for number in range(200)],
            "label": np.where(y == 1, "Parasitized", "Uninfected"),
            "p_network": np.clip(0.2 + 0.6 * y + random.normal(0, 0.1, 200), 0.01, 0.99),
            "rejected": "",
        }
    )
    fitted = evaluation.fit(cells, SETTINGS)
    scores = evaluation.score(cells, fitted, SETTINGS, doubtful) | {"rejected": evaluation.rejections(cells)}
    points = tuple(
        bundle.OperatingPoint(specificity=wanted, threshold=threshold)
        for wanted, threshold in fitted.thresholds.items()
    )
    record = bundle.read_record(folder).model_copy(update={"operating_points": points})
    last = scores | {name: {"value": value, "low": None, "high": None} for name, value in of_last.items()}
    sides = dict.fromkeys(names, scores) | {names[-1]: last}
    background = card.Background(by_patient, origin, laboratories or {})
    return card.render(record, 98_000, sides, background)


@pytest.mark.parametrize(
    ("by_patient", "said", "unsaid"),
    [
        (True, "No patient was both learned from and judged", "not by patient"),
        (False, "The split was not by patient", "No patient was"),
    ],
)
def test_the_card_claims_a_split_by_patient_only_where_there_was_one(model_bundle, by_patient, said, unsaid):
    text = rendered(model_bundle, by_patient)
    assert said in text
    assert unsaid not in text


def test_the_card_has_the_figures_of_other_laboratories_where_there_are_some(model_bundle):
    def figure(value: float | None, low: float | None = None, high: float | None = None) -> dict:
        return {"value": value, "low": low, "high": high}

    lahore = {
        "learned": False, "cells": 1200, "parasitized": 34, "turned_away_parasitized": figure(0.05),
        "turned_away_uninfected": figure(0.031), "false_positives": figure(49.6, 39.4, 63.5),
        "auc": figure(0.9694, 0.959, 0.977), "false_positives_at_95": figure(None),
    }  # fmt: skip
    text = rendered(model_bundle, True, laboratories={"lahore": lahore, "iran": lahore | {"learned": True}})
    row = "1,200, 34 | 0.050 | 0.031 | 50 (39 to 64) | 0.969 (0.959 to 0.977) | not known |"
    assert f"| lahore | no | {row}" in text
    assert f"| iran | yes | {row}" in text
    assert "## Other laboratories" not in rendered(model_bundle, True)


def test_a_specificity_is_named_as_it_was_asked_for(model_bundle):
    text = rendered(model_bundle, True)
    assert "| 97 % specificity val |" in text
    assert "| 99.5 % specificity val |" in text


def test_predictive_values_follow_from_sensitivity_specificity_and_parasitaemia(model_bundle):
    text = rendered(model_bundle, True, sensitivity=0.9, specificity=0.8)
    assert "| PPV at 0.1 % | PPV at 1 % | PPV at 5 % |" in text
    # Of 100,000 cells, true positives among those called: 90 of 20,070, 900 of 20,700, 4,500 of 23,500.
    assert "| 0.5 | 0.500 | 0.900 | 0.800 | 0.004 | 0.043 | 0.191 |" in text
    unknown = rendered(model_bundle, True, sensitivity=None, specificity=0.8)
    row = next(line for line in unknown.splitlines() if line.startswith("| 0.5 |"))
    assert row == "| 0.5 | 0.500 | not known | 0.800 | not known | not known | not known |"


def test_the_card_says_that_points_are_fitted_on_val_and_figures_on_test_count(model_bundle):
    text = rendered(model_bundle, True, sensitivity=0.25)
    assert "were fitted on val; the figures to go by are those on test." in text
    assert "| 0.5 | 0.500 | 0.250 |" in text


def test_one_side_alone_is_out_of_fold_and_doubtful_labels_and_origin_are_told(model_bundle):
    doubtful = frozenset({("Uninfected", "0.png"), ("Parasitized", "1.png")})
    text = rendered(model_bundle, True, names=("folds",), doubtful=doubtful, origin="From *here*.")
    assert "fitted on the same out-of-fold predictions that give the figures" in text
    assert "**without** the 2 doubtful labels" in text
    assert "From *here*." in text
