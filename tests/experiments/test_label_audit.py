"""The label audit: labels that models trained on other patients contradict are ranked first."""

import contextlib
import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy.special import expit, logit

from experiments import label_audit
from experiments.label_audit import check_unseen, main
from malaria import tables
from malaria.errors import UserError
from malaria.paths import LABEL_AUDIT, PRETRAINED
from tests.support.project import ROOT, commit, git, run

# Two probabilities contradict their labels (a, d), so the first two cells (a, b) are listed as wrong.
RANKED = """\
path,label,p_parasitized,score
a.png,Parasitized,0.1,0.9
b.png,Uninfected,0.4,0.8
c.png,Parasitized,0.5,0.7
d.png,Uninfected,0.9,0.6
"""


@pytest.fixture
def cells() -> pd.DataFrame:
    """200 cells of both classes, predicted well; the labels of the first six are wrong."""
    random = np.random.default_rng(3)
    parasitized = np.arange(200) % 2 == 0
    p = np.where(parasitized, 0.95, 0.05) + random.uniform(-0.04, 0.04, 200)
    p[:6] = np.where(parasitized[:6], 0.995, 0.005)
    labels = np.where(parasitized, "Parasitized", "Uninfected")
    labels[:6] = np.where(parasitized[:6], "Uninfected", "Parasitized")
    paths = [f"{label}/cell_{number}.png" for number, label in enumerate(labels)]
    return pd.DataFrame({"path": paths, "label": labels, "patient": "P1", "p_parasitized": p})


def test_wrong_labels_come_first_and_are_called_suspect(cells):
    ranked = label_audit.rank(cells)
    assert set(ranked.path[:6]) == set(cells.path[:6])
    assert ranked.suspect.to_numpy().nonzero()[0].tolist() == list(range(6))
    assert ranked.score.is_monotonic_decreasing
    assert ranked.score.between(0, 1).all()


def test_a_patient_whose_stain_looks_parasitised_does_not_crowd_out_wrong_labels(cells):
    random = np.random.default_rng(4)
    stained = np.arange(200) >= 100
    logits = np.where(cells.label == "Parasitized", 4, -4) + random.normal(0, 0.5, 200) + 5 * stained
    logits[:6] = np.where(cells.label[:6] == "Parasitized", -2, 0)
    cells = cells.assign(patient=np.where(stained, "P2", "P1"), p_parasitized=1 / (1 + np.exp(-logits)))
    healthy = cells.label == "Uninfected"
    assert cells.p_parasitized[stained & healthy].median() > cells.p_parasitized[:6].max()
    assert set(label_audit.rank(cells).path[:6]) == set(cells.path[:6])


def test_a_class_that_the_model_is_less_sure_of_does_not_crowd_out_the_other(cells):
    parasitized = cells.label == "Parasitized"
    cells["patient"] = [f"P{number % 5}" for number in range(200)]
    right = np.arange(200) >= 6
    cells.loc[right & parasitized, "p_parasitized"] = np.linspace(0.2, 0.6, (right & parasitized).sum())
    cells.loc[:5, "p_parasitized"] = np.where(parasitized[:6], 0.02, 0.6)
    assert set(label_audit.rank(cells).path[:6]) == set(cells.path[:6])


def ranked_of(rows: list[tuple[str, str, float]]) -> pd.Series:
    """The log-odds of each row's score: the higher, the more suspect is its label.

    Args:
        rows: (patient, label, log-odds of P) of each cell.
    """
    table = pd.DataFrame(rows, columns=["patient", "label", "log_odds"])
    table = table.assign(path=[f"{n:04}" for n in table.index], p_parasitized=expit(table.log_odds))
    return pd.Series(logit(label_audit.rank(table).set_index("path").score.sort_index().to_numpy()))


def test_a_mark_is_what_85_of_100_cells_of_a_class_stay_under():
    found = ranked_of(
        [("P1", "Uninfected", -6 + number / 20) for number in range(101)]
        + [("P1", "Parasitized", 1 + number / 20) for number in range(101)]
    )
    # High log-odds contradict Uninfected, low ones Parasitized.
    assert found[85] == pytest.approx(0, abs=1e-6)
    assert found[100] == pytest.approx(15 / 20, abs=1e-6)
    assert found[101 + 15] == pytest.approx(0, abs=1e-6)
    assert found[101] == pytest.approx(15 / 20, abs=1e-6)


def test_ten_healthy_cells_shift_by_half_of_their_median():
    rows = [("stained", "Uninfected", -2.0)] * 10 + [("other", "Uninfected", -4.0)] * 90
    found = ranked_of([*rows, ("stained", "Parasitized", 4.0), *[("other", "Parasitized", 4.0)] * 9])
    # The log-odds differ by 2, and half of that is attributed to the stain.
    assert found[0] - found[10] == pytest.approx(1, abs=1e-6)
    assert found[100] - found[101] == pytest.approx(1, abs=1e-6)


def test_a_patient_without_a_healthy_cell_shifts_by_nothing():
    known = [("other", "Uninfected", -4.0)] * 10 + [("other", "Parasitized", 4.0)]
    found = ranked_of([*known, ("no healthy cell", "Parasitized", 4.0)])
    assert found[10] == pytest.approx(found[11], abs=1e-9)


def test_suspect_labels_are_counted_by_patient(cells):
    cells["patient"] = np.where(np.arange(200) < 140, "P1", "P2")
    counts = label_audit.by_patient(label_audit.rank(cells))
    assert list(counts.columns) == ["patient", "label", "cells", "suspect", "share"]
    assert counts.cells.sum() == 200
    assert counts.groupby("patient").suspect.sum().to_dict() == {"P1": 6, "P2": 0}
    # Share: 3 of 70.
    assert counts.iloc[0].tolist() == ["P1", "Parasitized", 70, 3, 0.0429]


def test_the_summary_counts_by_class_and_names_patients(cells):
    text = label_audit.summary(label_audit.rank(cells))
    assert "Parasitized: 3 of 100 labels are suspect" in text
    assert "of the patients P1 3" in text


def test_cells_of_one_class_are_refused(cells):
    with pytest.raises(UserError, match="all of one class"):
        label_audit.rank(cells[cells.label == "Uninfected"])


def test_a_contact_sheet_of_cells_that_are_not_there_says_how_to_bring_them(cells, tmp_path):
    with pytest.raises(UserError, match=r"is not there: bring the ranked cells with `dvc repro fetch`"):
        label_audit.contact_sheet(label_audit.rank(cells), "Parasitized", tmp_path, 20, tmp_path / "x.png")


def test_a_contact_sheet_has_a_place_for_each_cell(cells, tmp_path):
    for path in cells.path:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 30), "red").save(tmp_path / path)
    ranked = label_audit.rank(cells)
    label_audit.contact_sheet(ranked, "Parasitized", tmp_path, 20, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (12 * 96, 2 * 122)
        assert sheet.convert("RGB").getpixel((40, 40)) == (255, 0, 0)


def test_two_rankings_are_averaged_by_their_log_odds(cells):
    ranked = cells[["path"]].assign(p_parasitized=0.5).iloc[::-1]
    mean = label_audit.averaged(cells, ranked)
    assert logit(mean.p_parasitized.to_numpy()) == pytest.approx(logit(cells.p_parasitized.to_numpy()) / 2)
    assert mean.drop(columns="p_parasitized").equals(cells.drop(columns="p_parasitized"))
    with pytest.raises(UserError, match=rf"lacks {cells.path.iloc[0]}: rank the cells without it"):
        label_audit.averaged(cells, ranked.iloc[:-1])


@pytest.mark.parametrize(
    ("how", "rows", "refused"),
    [("drop", "Uninfected,a.png\n", True), ("keep", "Uninfected,a.png\n", False), ("drop", "", False)],
    ids=["dropped by a list", "list unused", "empty list"],
)
def test_a_ranking_by_models_that_saw_a_list_is_not_published(tmp_path, monkeypatch, how, rows, refused):
    start(tmp_path, monkeypatch, rows, how)
    expected = contextlib.nullcontext()
    if refused:
        expected = pytest.raises(UserError, match=r"crossval-0 was trained with the list list\.csv")
    with expected:
        check_unseen(["crossval-0"])


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        ("Uninfected,b.png\nParasitized,a.png\n", False),
        ("Uninfected,b.png\n", True),
        ("Uninfected,b.png\nParasitized,a.png\nUninfected,d.png\n", True),
    ],
    ids=["its own", "a part", "one more"],
)
def test_the_list_that_the_published_ranking_contradicts_may_be_learned_without(
    tmp_path, monkeypatch, rows, refused
):
    start(tmp_path, monkeypatch, rows)
    # The ranking in the fold's commit counts, not a later one.
    (tmp_path / LABEL_AUDIT).write_text("path,label,p_parasitized,score\n")
    expected = contextlib.nullcontext()
    if refused:
        expected = pytest.raises(UserError, match=r"crossval-0 was trained with the list list\.csv")
    with expected:
        check_unseen(["crossval-0"])


def test_as_many_labels_are_listed_as_lie_on_the_other_side_of_one_half():
    parasitized, uninfected = {"a": 0.1, "c": 0.5, "f": 0.3, "h": 0.9, "i": 0.54}, {"b": 0.4, "e": 0.46}
    uninfected |= {"g": 0.9, "j": 0.1}
    p = pd.Series(parasitized | uninfected).sort_index()
    labels = np.where(p.index.isin(list(parasitized)), "Parasitized", "Uninfected")
    ranked = pd.DataFrame({"path": p.index, "label": labels, "p_parasitized": p.to_numpy()})
    # Three labels are contradicted (a, f, g), so the first three of the ranking are listed.
    assert label_audit.contradicted(ranked).to_numpy().tolist() == [
        ["Parasitized", "a"], ["Uninfected", "b"], ["Parasitized", "c"]
    ]  # fmt: skip


def test_the_list_for_a_second_round_is_the_top_of_the_published_ranking(tmp_path, monkeypatch):
    start(tmp_path, monkeypatch, "")
    monkeypatch.setattr(sys, "argv", ["label_audit", "--contradicted", "list.csv"])
    main()
    assert Path("list.csv").read_text() == "given_label,file\nParasitized,a.png\nUninfected,b.png\n"


def test_the_list_that_counts_is_the_one_that_the_fold_was_trained_with(tmp_path, monkeypatch):
    start(tmp_path, monkeypatch, "Uninfected,a.png\n")
    (tmp_path / "list.csv").write_text("given_label,file\n")
    with pytest.raises(UserError, match=r"crossval-0 was trained with the list list\.csv"):
        check_unseen(["crossval-0"])


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ("", "", None),
        ("Uninfected,a.png\n", "Uninfected,a.png\n", "was trained with the list"),
        ("Uninfected,a.png\n", "", "is not the list that crossval-0 was trained with"),
        ("Uninfected,a.png\n", None, "is not the list that crossval-0 was trained with"),
    ],
    ids=["empty", "listed", "emptied since", "gone"],
)
def test_a_list_outside_of_the_repository_is_known_by_its_hash(tmp_path, monkeypatch, then, now, said):
    outside = tmp_path / "list.csv"
    outside.write_text(f"given_label,file\n{then}")
    start(tmp_path / "repository", monkeypatch, "", labels_file=outside)
    outside.unlink() if now is None else outside.write_text(f"given_label,file\n{now}")
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        check_unseen(["crossval-0"])


def start(folder, monkeypatch, rows, how="drop", labels_file="list.csv"):
    """Make `folder` a repository whose commit `crossval-0` trained with `labels_file`, and enter it."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    Path("list.csv").write_text(f"given_label,file\n{rows}")
    LABEL_AUDIT.parent.mkdir(parents=True)
    LABEL_AUDIT.write_text(RANKED)
    train = {"noisy_labels": how, "labels_file": str(labels_file)}
    Path("params.yaml").write_text(yaml.safe_dump({"train": train}))
    md5 = hashlib.md5(Path(labels_file).read_bytes()).hexdigest()
    deps = [{"path": str(labels_file), "hash": "md5", "md5": md5}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train": {"deps": deps}}}))
    run("git", "init", "-q", ".", cwd=folder)
    run(sys.executable, "-m", "dvc", "init", "-q", cwd=folder)
    commit(folder, "all")
    git("tag", "crossval-0", cwd=folder)


def test_the_published_ranking_has_every_cell_that_the_pretrained_bundle_was_trained_on():
    published = tables.read(ROOT / LABEL_AUDIT, label_audit.RANKING)
    card = " ".join((ROOT / PRETRAINED / "MODEL_CARD.md").read_text().split())
    assert f"trained on all {len(published):,} cells" in card
    assert published.path.is_unique
    assert published.score.is_monotonic_decreasing
    assert published.p_parasitized.between(0, 1).all()
