"""Each check of the gate, at its limit and beyond it, on comparisons written by hand."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from ci import again, judge, verdict
from ci.again import Output, Rerun
from ci.comparison import Comparison, Figure, JudgedCounts, Side, Turnover
from ci.revisions import Revision
from malaria.errors import UserError
from malaria.params import load_params

GATE = load_params(Path(__file__).parents[2] / "params.yaml").gate.model_copy(
    update={
        "min_cells": 100, "min_auc": 0.9, "auc_loss": 0.01, "sensitivity_loss": 0.02, "point_loss": 0.03,
        "max_ece": 0.1, "max_bytes": 1000, "override": "let-it-through", "min_patients": 0.5,
    }
)  # fmt: skip
CELLS = JudgedCounts(
    cells=100, parasitized=50, patients=10, relabelled=0, left_out=0, torn=0, renamed=0, copies=0, came=0,
    gone=0, tested=20,
)  # fmt: skip
SIDE = Side(name="branch", commit="", source="nlm", bundle_bytes=1000)


def figure(name: str, low: float | None, high: float | None, value: float = 0.0, at=None) -> Figure:
    return Figure(name=name, at=at, base=0.9, branch=0.9 + value, difference=value, low=low, high=high)


FIGURES = {
    "auc": figure("auc", -0.001, 0.001),
    "sensitivity_at": figure("sensitivity_at", -0.001, 0.001, at=0.97),
    "ece": Figure(name="ece", base=0.1, branch=0.1, difference=0, low=-0.01, high=0.01),
    "sensitivity": figure("sensitivity", -0.001, 0.001, at=0.5),
    "specificity": figure("specificity", -0.001, 0.001, at=0.5),
}


def comparison(*figures: Figure, **changed) -> Comparison:
    """A branch that passes every check exactly at its limit, except for the given figures and values."""
    every = FIGURES | {one.name: one for one in figures}
    content = {
        "base": SIDE, "branch": SIDE, "behind": 0, "sample": False, "rules": (), "limits": GATE, "stages": (),
        "judged": CELLS, "unreadable": "", "figures": tuple(every.values()), "auc_low": 0.9, "claims": {},
        "flips": (), "flipped": 0, "changes": (), "speed": None, "turned_away": (0.5, 0.47),
        "classes": (), "patients": Turnover(name="Patients", gained=0, lost=0, now=10),
    }  # fmt: skip
    return Comparison(**content | changed)


def failed(found: Comparison, rerun: Rerun | None = None) -> list[str]:
    return [check.name for check in verdict.judge(found, rerun).checks if check.outcome == "failed"]


def rerun(*outputs: Output, **changed) -> Rerun:
    content = {"stages": ("train",), "frozen": (), "other_processor": False, "blind": (), "seconds": 1}
    return Rerun(outputs=outputs, **content | changed)


SAME = Output(stage="evaluate", path="reports/metrics.json", first="a", again="a")
MODEL = Output(stage="train", path="models/model.keras", first="b", again="c")
CELLS_AGAIN = Output(stage="pack", path="data/packed", first="d", again="e")


def test_what_reaches_every_limit_passes():
    judged = verdict.judge(comparison(), rerun(SAME))
    assert (judged.passed, judged.mergeable, judged.headline) == (True, True, "The gate passes.")


def test_a_report_that_ran_nothing_again_does_not_say_that_the_gate_passes():
    said = "No check fails so far: `make gate` also runs stages again."
    assert verdict.judge(comparison(), None).headline == said
    assert verdict.judge(comparison(forged=1), None).headline == "The gate fails: by patient."


@pytest.mark.parametrize(
    ("name", "loss", "check"),
    [
        ("auc", 0.01, "AUC"),
        ("sensitivity_at", 0.02, "sensitivity"),
        ("sensitivity", 0.03, "operating points"),
        ("specificity", 0.03, "operating points"),
    ],
)
def test_a_loss_fails_where_the_whole_interval_lies_beyond_what_is_allowed(name, loss, check):
    assert failed(comparison(figure(name, -0.9, -loss, -0.5, at=0.5))) == []
    assert failed(comparison(figure(name, -0.9, -loss - 1e-6, -0.5, at=0.5))) == [check]
    assert failed(comparison(figure(name, -0.9, 0.9, -0.5, at=0.5))) == []


@pytest.mark.parametrize(("difference", "fails"), [(-0.03, []), (-0.031, ["operating points"]), (0.5, [])])
def test_without_an_interval_the_difference_itself_counts(difference, fails):
    assert failed(comparison(figure("specificity", None, None, difference, at=0.5))) == fails


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"auc_low": 0.899}, "AUC at least"),
        ({"judged": CELLS.model_copy(update={"cells": 99})}, "comparable"),
        ({"judged": CELLS.model_copy(update={"patients": 9})}, "comparable"),
        ({"turned_away": (0.5, 0.4699)}, "not cells"),
        ({"judged": CELLS.model_copy(update={"torn": 1})}, "by patient"),
        ({"judged": CELLS.model_copy(update={"renamed": 1})}, "by patient"),
        ({"judged": CELLS.model_copy(update={"copies": 1})}, "by patient"),
        ({"branch": SIDE.model_copy(update={"bundle_bytes": 1001})}, "size"),
        ({"unreadable": "schema 99"}, "format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_one_step_beyond_a_limit_fails(changed, check):
    assert check in failed(comparison(**changed))
    assert not verdict.judge(comparison(**changed), None).passed


def test_an_error_of_calibration_beyond_the_limit_fails():
    assert failed(comparison(FIGURES["ece"].model_copy(update={"branch": 0.1001}))) == ["calibration"]


@pytest.mark.parametrize("name", ["auc", "sensitivity_at"])
def test_a_figure_that_differs_without_an_interval_is_not_comparable(name):
    assert failed(comparison(figure(name, None, None, 0.2))) == ["comparable"]
    assert failed(comparison(figure(name, None, None, 0.0))) == []
    assert failed(comparison(FIGURES[name].model_copy(update={"branch": None}))) == ["comparable"]


def test_a_label_overrides_a_gate_that_fails_and_no_other():
    found = comparison(auc_low=0.5)
    for labels, overridden in ((["other"], ""), (["other", "let-it-through"], "let-it-through")):
        judged = verdict.judge(found, None, pull_labels=labels)
        assert (judged.passed, judged.overridden, judged.mergeable) == (False, overridden, bool(overridden))
    assert verdict.judge(comparison(), None, pull_labels=["let-it-through"]).overridden == ""


def test_the_branch_judges_itself_only_where_there_is_no_base():
    assert failed(comparison(own_code=True)) == ["judge"]
    assert failed(comparison(base=None, own_code=True)) == []


def test_a_first_revision_has_no_patients_to_lose():
    assert failed(comparison(base=None, judged=CELLS.model_copy(update={"patients": 9}))) == []


def test_cells_with_other_bytes_than_their_hash_says_fail():
    assert failed(comparison(forged=1)) == ["by patient"]


def test_other_outputs_of_the_bases_inputs_fail():
    assert failed(comparison(contradicted=("train",))) == ["dvc.lock"]


def test_same_inputs_and_other_outputs_contradict_the_base(tmp_path):
    def revision(name: str, **stages: tuple[str, str]) -> Revision:
        lock = {stage: {"deps": [read], "outs": [made]} for stage, (read, made) in stages.items()}
        (tmp_path / name).mkdir()
        for file in ("dvc.lock", "dvc.yaml"):
            (tmp_path / name / file).write_text(yaml.safe_dump({"stages": lock}))
        return Revision(name, "", tmp_path / name)

    base = revision("base", same=("a", "x"), changed=("b", "x"), doctored=("c", "x"))
    branch = revision("branch", same=("a", "x"), changed=("d", "y"), doctored=("c", "z"), new=("e", "x"))
    assert judge.contradicted(base, branch) == ["doctored"]
    assert judge.contradicted(None, branch) == []


@pytest.mark.parametrize(("above", "fails"), [(None, []), (0.01, []), (0.011, ["reproducible"])])
def test_what_dvc_lock_names_may_not_be_better_than_what_its_code_makes_here(above, fails):
    assert failed(comparison(above_here=above), rerun(MODEL, other_processor=True)) == fails
    assert failed(comparison(above_here=above), rerun(SAME)) == []


@pytest.mark.parametrize(
    ("found", "fails"),
    [
        (rerun(SAME), []),
        (rerun(SAME, MODEL), ["reproducible"]),
        (rerun(SAME, MODEL, other_processor=True), []),
        (rerun(MODEL, CELLS_AGAIN, other_processor=True), ["reproducible"]),
        (rerun(SAME, frozen=("train",)), ["reproducible"]),
        (rerun(stages=(), frozen=("train",)), ["reproducible"]),
        (rerun(SAME, blind=(SAME,)), []),
        (rerun(SAME, blind=(SAME, MODEL)), ["blind training"]),
        (rerun(SAME, blind_error="the training fails"), ["blind training"]),
        (rerun(stages=()), []),
    ],
)
def test_what_runs_again_gives_the_same_but_for_what_depends_on_the_processor(found, fails):
    assert failed(comparison(), found) == fails


def test_a_branch_without_a_stage_that_the_gate_runs_again_is_told_so(tmp_path):
    for name in ("dvc.lock", "dvc.yaml"):
        (tmp_path / name).write_text("stages: {fetch: {cmd: python -m stages.fetch}}")
    with (
        pytest.raises(UserError, match=r"dvc\.lock has no stage evaluate, .*: keep the stage"),
        again.run(Revision("branch", "", tmp_path), ("fetch", "evaluate"), pd.DataFrame(), False),
    ):
        pass
