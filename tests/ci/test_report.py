"""What a branch changes against its base, and what the gate says of it."""

import json
import math
from pathlib import Path

import pytest

from ci import charts, comparison, rendering, revisions, verdict
from ci.comparison import Curve, Stage
from ci.verdict import Again, Rerun
from malaria.params import load_params
from tests.support import revision_folders as made

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
SETTINGS = PARAMS.evaluate.model_copy(update={"resamples": 200})
LIMITS = PARAMS.gate.model_copy(update={"min_cells": 100, "max_ece": 0.3})
STAGES = (Stage(name="train", how="ran", seconds=12.5), Stage(name="pack", how="unchanged"))


@pytest.fixture
def compare(tmp_path, model_bundle):
    """Compare a branch with a base, of 600 cells and skill 2 unless given others."""

    def _compare(base=None, branch=None, limits=LIMITS, first=False, **options):
        sides = {}
        for name, given in (("base", base or {}), ("branch", branch or {})):
            found = given.get("cells", made.cells())
            p = given["p"] if "p" in given else made.predicted(found, given.get("skill", 2.0))
            rest = {key: value for key, value in given.items() if key not in ("cells", "p", "skill")}
            sides[name] = made.write(
                tmp_path / name, found, p, rest.pop("bundle", model_bundle), name, **rest
            )
        older = None if first else sides["base"]
        return comparison.compare(older, sides["branch"], SETTINGS, limits, STAGES, **options)

    return _compare


def outcome(judged, name):
    return next(check.outcome for check in judged.checks if check.name == name)


def test_a_worse_model_fails_on_what_it_is_worse_at(compare):
    judged = verdict.judge(compare(branch={"skill": 1.0}), None)
    assert not judged.mergeable
    assert (outcome(judged, "AUC"), outcome(judged, "sensitivity")) == ("failed", "failed")
    assert judged.headline == "The gate fails: AUC, sensitivity."


@pytest.mark.parametrize("skill", [2.0, 2.05, 3.0])
def test_a_better_model_passes_and_so_does_one_as_good(compare, skill):
    found = compare(branch={"skill": skill})
    judged = verdict.judge(found, None)
    assert judged.passed
    assert judged.headline == "The gate passes."
    assert found.figures["auc"].difference == pytest.approx(
        found.figures["auc"].branch - found.figures["auc"].base, abs=2e-6
    )


def test_a_loss_within_the_margin_of_params_yaml_passes(compare):
    limits = LIMITS.model_copy(update={"auc_loss": 0.5, "sensitivity_loss": 0.9})
    assert verdict.judge(compare(branch={"skill": 1.0}, limits=limits), None).passed


def test_an_override_is_the_label_of_params_yaml_and_is_said_out_loud(compare):
    found = compare(branch={"skill": 1.0})
    assert not verdict.judge(found, None, ["documentation"]).mergeable
    judged = verdict.judge(found, None, ["documentation", "gate-override"])
    assert judged.mergeable
    assert not judged.passed
    assert "overridden by the label gate-override" in judged.headline
    assert "Somebody decided to override the gate" in rendering.markdown(found, judged)
    assert "Somebody decided to override the gate" in rendering.page(found, judged)


def test_a_gate_that_passes_is_not_overridden_by_a_label(compare):
    assert verdict.judge(compare(), None, ["gate-override"]).overridden == ""


def test_too_few_common_cells_are_not_comparable(compare):
    limits = LIMITS.model_copy(update={"min_cells": 301})
    judged = verdict.judge(compare(limits=limits), None)
    assert (outcome(judged, "comparable"), outcome(judged, "AUC")) == ("failed", "not judged")
    assert "not comparable: 300 test cells" in judged.checks[0].said
    assert "301 are needed" in judged.checks[0].said


def test_cells_are_the_same_where_their_bytes_are_whatever_their_names_say(compare):
    other_bytes = made.cells().assign(sha256=[f"{n:064x}" for n in range(10_000, 10_600)])
    assert compare(branch={"cells": other_bytes}).common.cells == 0


def test_renamed_cells_are_still_compared(compare):
    renamed = made.cells()
    renamed = renamed.assign(path=renamed.path.str.replace("cell_", "other_"))
    assert compare(branch={"cells": renamed}).common.cells == 300


@pytest.mark.parametrize("side", ["base", "branch"])
def test_patients_that_either_trained_on_are_left_out(compare, side):
    moved = made.cells()
    # P0 to P4: some of their cells are trained on in one revision, the others still tested in both.
    some = moved.patient.isin([f"P{n}" for n in range(5)]) & (moved.index % 60 < 30)
    found = compare(**{side: {"cells": moved.assign(split=moved.split.mask(some, "train"))}})
    assert (found.common.cells, found.common.patients, found.common.trained_on) == (200, 10, 50)


def test_mended_labels_are_judged_as_the_branch_has_them(compare):
    base = made.cells()
    mended = base.copy()
    wrong = base.index[base.split == "test"][:7]
    mended.loc[wrong, "label"] = mended.loc[wrong, "label"].map(
        {"Parasitized": "Uninfected", "Uninfected": "Parasitized"}
    )
    p = made.predicted(mended, 3.0)
    found = compare(base={"p": p}, branch={"cells": mended, "p": p})
    assert found.common.relabelled == 7
    assert sum(one.relabelled for one in found.data.classes) == 7
    assert found.figures["auc"].difference == 0


def test_gained_and_lost_cells_are_counted_by_class_and_patient(compare):
    found = compare(branch={"cells": made.cells(count=630, first=60)})
    by_label = {one.label: (one.gained, one.lost) for one in found.data.classes}
    assert by_label == {"Parasitized": (30, 30), "Uninfected": (60, 30)}
    assert found.data.patients_gained == found.data.patients_lost == 0


def test_changed_parameters_are_listed_with_both_values(compare):
    found = compare(branch={"changed": {"train.epochs": 3, "split.ratio": [0.5, 0.25, 0.25]}})
    assert [(change.key, change.branch) for change in found.changes] == [
        ("split.ratio", "[0.5, 0.25, 0.25]"),
        ("train.epochs", "3"),
    ]


def test_the_cells_whose_verdict_changed_most_come_first_and_are_ten(compare):
    p = made.predicted(made.cells(), 2.0)
    turned = p.copy()
    tested = made.cells().index[made.cells().split == "test"][:20]
    turned.loc[tested] = 1 - p.loc[tested]
    found = compare(base={"p": p}, branch={"p": turned})
    steps = [abs(flip.branch - flip.base) for flip in found.flips]
    assert found.flipped == 20
    assert len(steps) == 10
    assert steps == sorted(steps, reverse=True)


def test_both_bundles_are_weighed_and_timed(compare):
    found = compare()
    assert found.base.bundle_bytes == found.branch.bundle_bytes > 1000
    assert found.speed.base_ms > 0
    assert found.speed.branch_ms > 0
    assert found.speed.cells == 64


def test_a_bundle_of_another_schema_is_named_not_timed(compare, model_bundle, tmp_path):
    import shutil

    strange = tmp_path / "strange"
    shutil.copytree(model_bundle, strange)
    (strange / "bundle.json").write_text("{}")
    found = compare(base={"bundle": strange})
    assert found.speed.note == "this version of the code cannot open the bundle of base"
    assert found.speed.note in rendering.markdown(found, verdict.judge(found, None))


@pytest.mark.parametrize(
    ("limit", "name"), [({"max_bytes": 1000}, "size"), ({"max_ece": 0.001}, "calibration")]
)
def test_a_limit_that_is_passed_fails_alone(compare, limit, name):
    judged = verdict.judge(compare(limits=LIMITS.model_copy(update=limit)), None)
    assert judged.headline == f"The gate fails: {name}."


def test_a_rerun_with_another_hash_fails_and_names_the_stage(compare):
    outputs = (
        Again(stage="split", path="data/splits.csv", first="a" * 32, again="a" * 32),
        Again(stage="pack", path="data/packed", first="b" * 32, again="c" * 32),
    )
    found = compare()
    judged = verdict.judge(found, Rerun(lock="", stages=("split", "pack"), outputs=outputs, seconds=3))
    assert judged.headline == "The gate fails: reproducible."
    assert "pack made another data/packed (cccccccc, not bbbbbbbb)" in judged.checks[-1].said
    same = Rerun(lock="", stages=("split",), outputs=outputs[:1], seconds=3)
    assert outcome(verdict.judge(found, same), "reproducible") == "passed"


def test_a_first_revision_is_judged_by_the_absolute_limits_alone(compare):
    found = compare(first=True)
    judged = verdict.judge(found, None)
    assert judged.passed
    assert "a first revision" in judged.checks[0].said
    assert "A first revision: the base has no model" in rendering.markdown(found, judged)
    assert "A first revision" in rendering.page(found, judged)
    small = found.model_copy(update={"limits": LIMITS.model_copy(update={"max_bytes": 1})})
    assert verdict.judge(small, None).headline == "The gate fails: size."


def test_figures_without_an_interval_are_not_comparable(compare):
    one_patient = made.cells().assign(patient="P1")
    one_patient = one_patient.assign(split="test")
    found = compare(base={"cells": one_patient, "skill": 2.0}, branch={"cells": one_patient, "skill": 1.0})
    judged = verdict.judge(found, None)
    assert outcome(judged, "comparable") == "failed"
    assert "AUC has no interval over 1 patient" in judged.checks[0].said


def test_the_report_says_everything_it_was_asked_for(compare):
    found = compare(
        base={"skill": 1.0},
        branch={"changed": {"train.epochs": 3}, "cells": made.cells(630)},
        behind=2,
        rules=("ci",),
    )
    text = rendering.markdown(found, verdict.judge(found, None))
    for expected in (
        "| train | ran | 12.5 |",
        "| AUC | 0.",
        "sensitivity at 97 % specificity",
        "`train.epochs`",
        "| Uninfected | 30 | 0 |",
        "are called otherwise at 0.5",
        "ms a cell, one core",
        "The base has 2 commits that this branch lacks",
        "This branch changes how it is judged:** `ci`",
        "say nothing of real cells",
    ):
        assert expected in text, expected
    assert text.count("```mermaid") == 5
    page = rendering.page(found, verdict.judge(found, None))
    assert page.count("<svg") == 5
    assert "https://" not in page
    assert "http://" not in page


def test_names_of_files_cannot_break_out_of_the_report(compare):
    strange = made.cells()
    bad = "Uninfected/`|<img src=x onerror=alert(1)>@all.png"
    strange.loc[strange.index[strange.split == "test"][0], "path"] = bad
    p = made.predicted(strange, 2.0)
    turned = p.copy()
    turned.iloc[strange.index[strange.path == bad][0]] = 1 - p[strange.path == bad].iloc[0]
    found = compare(base={"cells": strange, "p": p}, branch={"cells": strange, "p": turned})
    assert "<img" not in rendering.page(found, verdict.judge(found, None))
    (row,) = [
        line for line in rendering.markdown(found, verdict.judge(found, None)).splitlines() if "alert" in line
    ]
    assert row.count("`") == 2
    assert row.count("|") == 5


def test_a_comparison_survives_being_written_and_read(compare):
    found = compare()
    assert comparison.Comparison.model_validate_json(found.model_dump_json()) == found
    assert "NaN" not in json.dumps(found.model_dump(mode="json"))


def test_a_mermaid_chart_reads_both_curves_at_the_same_places():
    curve = Curve(
        title="val AUC", x="epoch", y="val AUC", base=((0, 0.5), (1, 0.7)), branch=((0, 0.6), (4, 0.8))
    )
    *_, base, branch = charts.mermaid(curve).splitlines()
    first, last = (json.loads(line.strip().removeprefix("line ")) for line in (base, branch))
    assert len(first) == len(last) == 21
    # Trained for one epoch, the base stays level where the branch goes on.
    assert (first[0], first[-1], last[-1]) == (0.5, 0.7, 0.8)


def test_ticks_are_round_and_none_is_minus_nought():
    curve = Curve(title="ROC", x="1 - specificity", y="sensitivity", base=((0, 0), (1, 1)), branch=())
    texts = [tick.text for tick in charts.drawing(curve).ticks_x]
    assert texts == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    epochs = Curve(title="val loss", x="epoch", y="val loss", base=((0, 0.69), (1, 0.6)), branch=())
    assert [tick.text for tick in charts.drawing(epochs).ticks_x] == ["0", "1"]
    assert all(math.isfinite(tick.place) for tick in charts.drawing(epochs).ticks_y)


def test_the_sample_takes_the_source_s_place_and_keeps_the_comments(tmp_path):
    file = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    file.write_text(text.replace("  source: sample ", "  source: nlm "))
    assert revisions.use_sample(file)
    assert load_params(file).data.source == "sample"
    assert "# sample (drawn by the project)" in file.read_text()
    assert not revisions.use_sample(file)
