"""Splits: whole patients are drawn, none is on two sides, and the shares of cells fit params.yaml."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malaria import files, tables
from malaria.cells import splits
from malaria.errors import UserError
from malaria.labels import LABELS
from malaria.params import Split, load_params

SETTINGS = load_params(Path(__file__).parents[2] / "params.yaml").split


def table(per_patient: list[tuple[int, int]], known: bool = True) -> pd.DataFrame:
    """An audit table; `per_patient` gives each patient's number of parasitised and uninfected cells."""
    rows = []
    for number, counts in enumerate(per_patient):
        for label, count in zip(("Parasitized", "Uninfected"), counts, strict=True):
            patient = f"P{number}" if known else ""
            rows += [(f"{label}/p{number}_{i}.png", label, patient) for i in range(count)]
    cells = pd.DataFrame(rows, columns=["path", "label", "patient"])
    return cells.assign(
        slide="", width=50, height=50, pages=1, bits=0, sha256="", status=tables.OK, reason=""
    ).sort_values("path")


@pytest.fixture
def cells() -> pd.DataFrame:
    random = np.random.default_rng(0)
    infected = [(int(n), 20) for n in random.integers(5, 40, 30)]
    return table(infected + [(0, 25)] * 10)


def changed(**changes: object) -> Split:
    return Split.model_validate({**SETTINGS.model_dump(), **changes})


def test_a_patient_never_sits_on_two_sides(cells):
    assigned, _ = splits.split(cells, SETTINGS)
    assert assigned.groupby("patient").split.nunique().max() == 1


def test_the_shares_of_cells_and_of_parasitised_cells_fit(cells):
    _, summary = splits.split(cells, SETTINGS)
    for name, wanted in zip(tables.SPLIT_NAMES, SETTINGS.ratio, strict=True):
        assert summary.sides[name].share == pytest.approx(wanted, abs=0.03)
        assert summary.sides[name].share_of_parasitized == pytest.approx(wanted, abs=0.03)


def test_of_few_patients_each_side_gets_its_nearest_number():
    _, summary = splits.split(table([(9, 9)] * 9), changed(tolerance=0.2))
    assert [side.patients for side in summary.sides.values()] == [5, 2, 2]


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_same_seed_gives_the_same_split_whatever_the_order_of_rows(seed):
    many = table([(9, 9)] * 30)
    first, _ = splits.split(many, changed(seed=seed))
    second, _ = splits.split(many.sample(frac=1, random_state=1), changed(seed=seed))
    assert first.set_index("path").split.to_dict() == second.set_index("path").split.to_dict()


def test_by_image_a_patient_leaks_and_the_summary_says_so(cells):
    assigned, summary = splits.split(cells, changed(unit="image"))
    assert assigned.groupby("patient").split.nunique().max() == 3
    assert not summary.by_patient


def test_cells_of_no_known_patient_count_each_on_their_own():
    assigned, summary = splits.split(table([(30, 30)], known=False), SETTINGS)
    assert assigned.patient.nunique() == 60
    assert not summary.by_patient


def test_folds_test_every_cell_once(cells):
    tested = []
    for fold in range(4):
        assigned, _ = splits.split(cells, changed(folds=4, fold=fold))
        splits.check_disjoint(assigned)
        tested += list(assigned.path[assigned.split == "test"])
    assert sorted(tested) == sorted(cells.path)


def test_a_file_of_sides_is_followed(cells, tmp_path):
    sides = {f"P{n}": ("train", "val", "test")[n % 3] for n in range(40)}
    pd.DataFrame(sides.items(), columns=["patient", "split"]).to_csv(tmp_path / "s.csv", index=False)
    assigned, summary = splits.split(cells, changed(file=str(tmp_path / "s.csv")))
    assert assigned.groupby("patient").split.first().to_dict() == sides
    assert summary.draw == 0


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train", "test")])
def test_a_file_of_sides_is_no_cross_validation(cells, tmp_path, names):
    sides = {f"P{n}": names[n % len(names)] for n in range(40)}
    pd.DataFrame(sides.items(), columns=["patient", "split"]).to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(UserError, match=r"split\.folds is 5, but .*s\.csv \(split\.file\) gives one split"):
        splits.split(cells, changed(file=str(tmp_path / "s.csv"), folds=5))


def test_of_a_file_of_folds_one_is_tested_and_val_is_drawn_from_the_rest(cells, tmp_path):
    folds = pd.DataFrame({"patient": [f"P{n}" for n in range(40)], "fold": [n % 4 for n in range(40)]})
    folds.to_csv(tmp_path / "f.csv", index=False)
    assigned, _ = splits.split(cells, changed(file=str(tmp_path / "f.csv"), fold=1, tolerance=0.05))
    assert set(assigned.patient[assigned.split == "test"]) == set(folds.patient[folds.fold == 1])
    assert {"train", "val"} <= set(assigned.split)


@pytest.mark.parametrize(
    ("ratio", "in_val"),
    # Ten of 40 patients are tested. Val gets 15 % of all 40, or 6, but never more than half of the other 30.
    [((0.7, 0.15, 0.15), 6), ((0.2, 0.6, 0.2), 15)],
)
def test_of_folds_val_has_its_share_of_all_cells(tmp_path, ratio, in_val):
    folds = pd.DataFrame({"patient": [f"P{n}" for n in range(40)], "fold": [n % 4 for n in range(40)]})
    folds.to_csv(tmp_path / "f.csv", index=False)
    _, summary = splits.split(table([(5, 5)] * 40), changed(file=str(tmp_path / "f.csv"), ratio=ratio))
    assert [summary.sides[name].patients for name in tables.SPLIT_NAMES] == [30 - in_val, in_val, 10]


def test_infected_patients_and_controls_are_drawn_apart():
    assigned, _ = splits.split(table([(5, 5)] * 20 + [(0, 10)] * 20), changed(tolerance=0.1))
    control = assigned.patient.str[1:].astype(int) >= 20
    by_kind = assigned.groupby(["split", control]).patient.nunique().unstack()
    assert by_kind.loc[["train", "val", "test"]].to_numpy().tolist() == [[12, 12], [4, 4], [4, 4]]


@pytest.mark.parametrize("seed", range(4))
def test_shares_of_parasitised_cells_have_to_fit_where_those_of_cells_do_anyway(seed):
    _, summary = splits.split(table([(9, 1), (1, 9)] * 5), changed(tolerance=0.05, seed=seed))
    assert [side.parasitized for side in summary.sides.values()] == [30, 10, 10]


def test_a_distance_at_the_tolerance_fits(monkeypatch):
    monkeypatch.setattr(splits, "MAX_DRAWS", 20)
    # Train gets five of nine patients: 0.556 of the cells, 0.044 less than the ratio's 0.6.
    assert splits.split(table([(9, 9)] * 9), changed(tolerance=0.6 - 5 / 9))[1].draw == 1
    with pytest.raises(UserError, match=r"the nearest was off by 0\.044"):
        splits.split(table([(9, 9)] * 9), changed(tolerance=0.044))


def test_what_was_set_aside_is_on_no_side(cells):
    cells.loc[cells.index[:50], "status"] = tables.QUARANTINED
    assigned, summary = splits.split(cells, SETTINGS)
    assert len(assigned) == sum(side.cells for side in summary.sides.values()) == len(cells) - 50


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("patient,split\nP1,train\n", "says nothing of 39 of the data's patients"),
        ("patient,split\nP1,holdout\n", "has the split 'holdout'"),
        ("patient,split\nP1,train\nP1,val\n", "has patient P1 twice"),
        ("who,split\nP1,train\n", "needs patient,split or patient,fold"),
        ("patient,fold\nP1,3\n", "split.fold is 0, but"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(cells, tmp_path, text, sentence):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        splits.split(cells, changed(file=str(tmp_path / "s.csv")))


def test_too_few_patients_are_refused():
    with pytest.raises(UserError, match="The data has 2 patients, too few for 3 sides"):
        splits.split(table([(9, 9), (9, 9)]), SETTINGS)


def test_shares_that_no_draw_can_give_are_refused(monkeypatch):
    monkeypatch.setattr(splits, "MAX_DRAWS", 20)
    with pytest.raises(UserError, match="none of 20 draws gives the shares"):
        splits.split(table([(500, 5)] + [(1, 5)] * 5), SETTINGS)


def test_a_side_without_one_class_is_refused(tmp_path):
    (tmp_path / "s.csv").write_text("patient,split\nP0,train\nP1,val\nP2,test\n")
    with pytest.raises(UserError, match="leaves val without a Parasitized cell"):
        splits.split(table([(5, 5), (0, 5), (5, 5)]), changed(file=str(tmp_path / "s.csv")))


def test_a_torn_patient_is_noticed(cells):
    assigned, _ = splits.split(cells, changed(unit="image"))
    with pytest.raises(UserError, match=r"share \d+ patients, such as"):
        splits.check_disjoint(assigned)
    two = pd.DataFrame({"patient": ["P1", "P1", "P2"], "split": ["train", "val", "test"]})
    with pytest.raises(UserError, match=r"that the cells come in share 1 patients, such as P1:"):
        splits.check_disjoint(two)
    splits.check_disjoint(two[1:])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"split\.file is .*folds\.csv, but there is no such file"),
        (b"", "is no CSV table"),
        (b"\xff\xfe\x00", "is not UTF-8: save it as such"),
    ],
)
def test_a_file_of_folds_that_cannot_be_read_is_said_in_a_sentence(tmp_path, content, sentence):
    file = tmp_path / "folds.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        splits.folds_in(file)


@pytest.fixture(scope="module")
def sides_file(tmp_path_factory) -> Path:
    """The file that keeps the patients' sides between the draws of `history`."""
    return tmp_path_factory.mktemp("kept") / "sides.json"


@pytest.fixture(scope="module")
def history(sides_file) -> list[tuple[pd.DataFrame, pd.DataFrame, splits.Summary]]:
    """Cells, split and summary of a first draw and of five additions, with which some patients leave."""
    random = np.random.default_rng(3)
    everybody = table([(int(n), 20) for n in random.integers(5, 40, 60)] + [(0, 25)] * 20)
    order = random.permutation(everybody.patient.unique())
    found = []
    for addition in range(6):
        here = order[2 * addition : 50 + 6 * addition]
        lot = everybody[everybody.patient.isin(here)]
        assigned, summary, kept = splits.extend(lot, SETTINGS, splits.read_record(sides_file))
        files.write_json(sides_file, asdict(kept))
        found.append((lot, assigned, summary))
    return found


def test_patients_keep_their_side_when_others_come_and_go(history):
    sides: dict[str, str] = {}
    for _, assigned, _ in history:
        now = assigned.drop_duplicates("patient").set_index("patient").split.to_dict()
        assert all(sides.get(patient, side) == side for patient, side in now.items())
        sides |= now
    assert len(sides) == 80


def test_the_shares_fit_after_each_addition(history):
    for _, _, summary in history:
        for name, wanted in zip(tables.SPLIT_NAMES, SETTINGS.ratio, strict=True):
            assert summary.sides[name].share == pytest.approx(wanted, abs=SETTINGS.tolerance)
            assert summary.sides[name].share_of_parasitized == pytest.approx(wanted, abs=SETTINGS.tolerance)


def test_new_patients_come_onto_every_side(history):
    came = [patient for _, _, summary in history for patient in summary.came]
    _, assigned, _ = history[-1]
    assert set(assigned.split[assigned.patient.isin(came)]) == set(tables.SPLIT_NAMES)


def test_the_summary_says_who_came_last_and_who_is_gone(history):
    before = set(history[0][0].patient)
    for number, (lot, _, summary) in enumerate(history):
        assert set(summary.came) == (set(lot.patient) - before if number else set())
        before |= set(lot.patient)
        assert set(summary.gone) == before - set(lot.patient)


def test_the_same_cells_again_give_the_same_split_and_the_same_words(history, sides_file):
    lot, assigned, summary = history[-1]
    kept = splits.read_record(sides_file)
    once_more, words, unchanged = splits.extend(lot.sample(frac=1, random_state=1), SETTINGS, kept)
    pd.testing.assert_frame_equal(once_more.sort_values("path", ignore_index=True), assigned)
    assert (words, unchanged) == (summary, kept)


def test_who_comes_back_finds_the_old_side(history, sides_file):
    first, assigned, _ = history[0]
    again, _, _ = splits.extend(first, SETTINGS, splits.read_record(sides_file))
    pd.testing.assert_frame_equal(again, assigned)


def test_another_seed_is_another_draw_of_everybody(cells):
    _, _, kept = splits.extend(cells, SETTINGS, splits.Record())
    assigned, summary, anew = splits.extend(cells, changed(seed=2), kept)
    pd.testing.assert_frame_equal(assigned, splits.split(cells, changed(seed=2))[0])
    assert (summary.came, summary.gone, len(anew.rounds)) == ((), (), 1)


@pytest.mark.parametrize("changes", [{"unit": "image"}, {"folds": 4}])
def test_sides_are_not_kept_for_a_split_by_image_or_into_folds(cells, changes):
    _, _, kept = splits.extend(cells, SETTINGS, splits.Record())
    assigned, _, unchanged = splits.extend(cells, changed(**changes), kept)
    pd.testing.assert_frame_equal(assigned, splits.split(cells, changed(**changes))[0])
    assert unchanged == kept


def test_sides_are_not_kept_where_cells_come_in_split_folders():
    cells = come_in({"P1": "train", "P2": "test", "P3": "val"})
    stray = cells.head(1).assign(path="Parasitized/notes.txt", patient="", status=tables.QUARANTINED)
    _, summary, kept = splits.extend(pd.concat([cells, stray]), SETTINGS, splits.Record())
    assert (summary.draw, kept) == (0, splits.Record())


def test_sides_that_no_addition_can_bring_into_tolerance_are_said_in_a_sentence(cells, monkeypatch):
    monkeypatch.setattr(splits, "MAX_DRAWS", 5)
    few = splits.Record(
        SETTINGS.ratio, SETTINGS.seed, (splits.Round(1, {"test": list(cells.patient[:900])}),)
    )
    with pytest.raises(UserError, match=r"on the sides that they had, no draw of the \d+ new ones gives"):
        splits.extend(cells, SETTINGS, few)


@pytest.mark.parametrize(
    "content",
    [
        "<<<<<<< HEAD",
        "[]",
        '{"ratio": [1], "seed": 1, "rounds": [{"draw": 1, "sides": {"train": ["P1"], "test": ["P1"]}}]}',
        '{"ratio": [1], "seed": 1, "rounds": [{"draw": 1, "sides": {"holdout": ["P1"]}}]}',
    ],
)
def test_a_damaged_record_of_sides_is_refused(tmp_path, content):
    (tmp_path / "sides.json").write_text(content)
    with pytest.raises(UserError, match=r"sides\.json is damaged"):
        splits.read_record(tmp_path / "sides.json")


def come_in(sides: dict[str, str]) -> pd.DataFrame:
    """Cells in folders train, val and test, as some publishers deliver them; `sides`: folder by patient."""
    rows = [
        (f"{label}/{side}/{patient}.png", label, patient)
        for patient, side in sides.items()
        for label in ("Parasitized", "Uninfected")
    ]
    return pd.DataFrame(rows, columns=["path", "label", "patient"]).assign(status="ok")


def came_in(sides: dict[str, str], **settings: object) -> pd.DataFrame:
    """The split of the cells that `come_in` gives for `sides`."""
    return splits.split(come_in(sides), changed(**settings))[0]


def test_the_split_that_cells_come_in_is_kept():
    sides = {"P1": "train", "P2": "test", "P3": "val", "P4": "test"}
    assigned = came_in(sides)
    assert dict(zip(assigned.patient, assigned.split, strict=True)) == sides


def test_val_is_drawn_where_cells_come_in_train_and_test_alone():
    assigned = came_in({**{f"P{n}": "train" for n in range(9)}, "C1": "test"}, tolerance=0.2)
    assert set(assigned.split[assigned.patient != "C1"]) == {"train", "val"}
    assert set(assigned.split[assigned.patient == "C1"]) == {"test"}


def test_a_split_without_a_test_side_is_refused():
    with pytest.raises(UserError, match="come in train and val alone: add a folder test"):
        came_in({"P1": "train", "P2": "val"})


def test_a_split_without_a_train_side_leaves_nobody_to_draw_val_from():
    with pytest.raises(UserError, match="too few for 2 sides"):
        came_in({"P1": "test", "P2": "test"})


def test_a_given_split_that_tears_a_patient_is_kept_only_with_unit_image():
    cells = pd.DataFrame(
        {
            "path": [f"{label}/{side}/{side}.png" for side in tables.SPLIT_NAMES for label in LABELS],
            "label": [*LABELS] * 3,
            "patient": "P1",
            "status": "ok",
        }
    )
    with pytest.raises(
        UserError, match="share 1 patients, such as P1: put all cells into the same class folders"
    ):
        splits.split(cells, SETTINGS)
    assigned, summary = splits.split(cells, changed(unit="image"))
    assert [path.split("/")[1] for path in assigned.path] == list(assigned.split)
    assert not summary.by_patient
