"""Paired comparison: two models on the same cells and the same bootstrap samples of patients."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from malaria import predict
from malaria.errors import UserError
from malaria.evaluate import evaluation, metrics, paired
from malaria.params import load_params

SETTINGS = load_params(Path(__file__).parents[2] / "params.yaml").evaluate.model_copy(
    update={"resamples": 200}
)


@pytest.fixture
def cells() -> pd.DataFrame:
    """600 cells of 12 patients, as two models predict them; both err on the same hard patients."""
    random = np.random.default_rng(0)
    y = np.arange(600) % 2
    patient = np.arange(600) // 50
    easy = np.where(y == 1, 2.0, -2.0) * (1 + patient % 4)[:]
    logit = easy + random.normal(0, 3, 600)
    return pd.DataFrame(
        {
            "path": [f"{('Uninfected', 'Parasitized')[k]}/cell_{n:03}.png" for n, k in enumerate(y)],
            "patient": [f"P{number}" for number in patient],
            "label": np.where(y == 1, "Parasitized", "Uninfected"),
            "one": 1 / (1 + np.exp(-logit - np.where(y == 1, 0.7, -0.7))),
            "other": 1 / (1 + np.exp(-logit)),
        }
    )


def test_a_model_that_is_better_everywhere_is_told_apart(cells):
    found = paired.differences(cells, SETTINGS)[evaluation.AS_GIVEN]
    assert list(found) == list(paired.FIGURES)
    for name in ("auc", "accuracy", "sensitivity", "specificity", "macro_sensitivity"):
        assert found[name].tells_apart, name
        assert 0 < found[name].difference.low < found[name].difference.value < found[name].difference.high
        assert found[name].difference.value == pytest.approx(found[name].one - found[name].other)


def test_the_interval_is_far_narrower_than_that_of_unpaired_models(cells):
    both = paired.differences(cells, SETTINGS)[evaluation.AS_GIVEN]["sensitivity"].difference
    alone = evaluation.score(cells.assign(p_network=cells.one), evaluation.Fitted(1.0, {}), SETTINGS)
    width = alone["sensitivity"]["high"] - alone["sensitivity"]["low"]
    assert both.high - both.low < 0.7 * width


def test_the_figures_are_those_that_evaluation_gives(cells):
    found = paired.differences(cells, SETTINGS)[evaluation.AS_GIVEN]
    alone = evaluation.score(cells.assign(p_network=cells.other), evaluation.Fitted(1.0, {}), SETTINGS)
    for name in paired.FIGURES:
        assert found[name].other == pytest.approx(alone[name]["value"], abs=1e-6), name


def test_a_model_is_not_told_apart_from_itself(cells):
    found = paired.differences(cells.assign(other=cells.one), SETTINGS)[evaluation.AS_GIVEN]
    assert not any(difference.tells_apart for difference in found.values())
    assert {difference.difference.value for difference in found.values()} == {0.0}


@pytest.mark.parametrize(
    ("interval", "apart"),
    [
        ((0.1, 0.01, 0.2), True), ((-0.1, -0.2, -0.01), True), ((0.0, -0.1, 0.1), False),
        ((0.1, 0.0, 0.2), False), ((-0.1, -0.2, 0.0), False), ((0.1, np.nan, np.nan), False),
    ],
)  # fmt: skip
def test_an_interval_that_excludes_zero_tells_apart(interval, apart):
    assert paired.Difference(0.9, 0.8, metrics.Estimate(*interval)).tells_apart == apart


def test_labels_in_doubt_are_left_out_and_flipped(cells):
    doubtful = frozenset((row.label, Path(row.path).name) for row in cells.iloc[:20].itertuples())
    cells.loc[:19, "one"] = np.where(cells.label[:20] == "Parasitized", 0.1, 0.9)
    cells.loc[:19, "other"] = 1 - cells.one[:20]
    found = paired.differences(cells, SETTINGS, doubtful)
    accuracy = {version: figures["accuracy"].difference.value for version, figures in found.items()}
    kept = paired.differences(cells.iloc[20:], SETTINGS)[evaluation.AS_GIVEN]["accuracy"].difference.value
    assert accuracy[evaluation.WITHOUT] == pytest.approx(kept)
    assert accuracy[evaluation.AS_GIVEN] < kept < accuracy[evaluation.FLIPPED]


def test_cells_are_joined_by_path_or_by_name(cells):
    ours = cells.rename(columns={"one": "p_parasitized"}).drop(columns="other")
    theirs = pd.DataFrame({"path": cells.path, "p_parasitized": cells.other}).sample(frac=0.5, random_state=1)
    by_path = paired.join(ours, theirs)
    named = theirs.rename(columns={"path": "file"}).assign(file=[Path(path).name for path in theirs.path])
    assert len(by_path) == 300
    assert by_path.equals(paired.join(ours, named))
    expected = cells[cells.path.isin(theirs.path)].sort_values("path", ignore_index=True)
    assert (by_path.other == expected.other).all()
    assert (by_path.one == expected.one).all()


def test_a_cell_that_stands_twice_is_refused(cells):
    ours = cells.rename(columns={"one": "p_parasitized"})
    with pytest.raises(UserError, match=r"cell_000\.png stands twice"):
        paired.join(ours, pd.concat([ours, ours.iloc[:1]]))


def test_weak_patients_come_first_and_those_with_few_sure_cells_do_not_count(cells):
    called = np.where(cells.index % 4 < 2, 0.5, 0.9)
    cells["one"] = np.where(cells.patient == "P3", 0.49, called)
    cells["other"] = np.where(cells.patient == "P3", called, 0.49)
    found = paired.patients(cells, min_cells=25)
    assert found.iloc[0].tolist() == ["P3", 25, 0.0, 1.0]
    assert found[["one", "other"]][1:].drop_duplicates().to_numpy().tolist() == [[1.0, 0.0]]
    parasitised = cells[(cells.patient == "P3") & (cells.label == "Parasitized")]
    doubtful = frozenset(zip(parasitised.label[:6], parasitised.path[:6], strict=True))
    left = set(cells.patient) - {"P3"}
    assert set(paired.patients(cells, min_cells=20, doubtful=doubtful).patient) == left


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is missing: name a table of predictions"),
        (
            "file,p\na.png,0.5\n",
            "has the columns file, p, but needs path,p_parasitized or file,p_parasitized",
        ),
    ],
)
def test_what_is_no_table_of_predictions_is_refused(tmp_path, content, sentence):
    file = tmp_path / "other.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=sentence):
        paired.read(file)


def test_sensitivity_at_a_specificity_is_read_off_the_cells_themselves(cells):
    found = paired.at_specificity(cells, SETTINGS, 0.97)
    for side, value in (("one", found.one), ("other", found.other)):
        healthy = np.sort(cells[side][cells.label == "Uninfected"])
        threshold = healthy[int(np.ceil(0.97 * len(healthy))) - 1]
        assert value == pytest.approx((cells[side][cells.label == "Parasitized"] > threshold).mean())
    assert found.tells_apart
    assert found.difference.value == pytest.approx(found.one - found.other)


def test_cells_that_tie_fall_on_one_side_of_the_threshold_together(cells):
    tied = cells.assign(one=np.where(cells.label == "Parasitized", 0.9, 0.9), other=0.5)
    found = paired.at_specificity(tied, SETTINGS, 0.97)
    assert (found.one, found.other) == (0.0, 0.0)


def test_sensitivity_at_a_specificity_needs_both_classes(cells):
    found = paired.at_specificity(cells[cells.label == "Parasitized"], SETTINGS, 0.97)
    assert np.isnan([found.one, found.other, found.difference.value]).all()


def test_calibration_is_that_of_the_metrics(cells):
    found = paired.calibration(cells, SETTINGS)
    alone = evaluation.score(cells.assign(p_network=cells.other), evaluation.Fitted(1.0, {}), SETTINGS)
    assert found.other == pytest.approx(alone["ece"]["value"], abs=1e-6)


def test_cells_that_either_model_turned_away_are_left_out(cells, tmp_path):
    table = cells.rename(columns={"one": "p_parasitized"}).drop(columns="other")
    rows = [
        predict.Row(path, None if number < 2 else 0.25, None, "", "")
        for number, path in enumerate(cells.path)
    ]
    with (tmp_path / "other.csv").open("w") as out:
        predict.write(rows, out)
    other = paired.read(tmp_path / "other.csv")
    assert (
        len(paired.join(table, other)) == len(paired.join(other.assign(patient="", label=""), table)) == 598
    )


def test_a_probability_that_is_no_number_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("path,p_parasitized\na.png,likely\n")
    with pytest.raises(UserError, match="is no CSV table of predictions"):
        paired.read(tmp_path / "other.csv")
