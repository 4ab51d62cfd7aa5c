"""The gate's comparison of a branch with its base, and its verdict."""

import contextlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ci import again, comparison, judge, outputs, rendering, revisions, verdict
from ci.again import Output, Rerun
from ci.comparison import Stage
from ci.github import summary
from malaria import files, paths, tables
from malaria.bundle import fingerprints
from malaria.errors import UserError
from malaria.params import load_params
from tests.support import revision_folders as made
from tests.support.project import commit, git

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
STAGES = (Stage(name="train", how="ran", seconds=12.5), Stage(name="pack", how="unchanged"))
LIMITS = {"min_cells": 100, "max_ece": 0.5, "min_auc": 0.5}

# Weights of red, green and blue in the violet network: WELL recognises parasites better than BADLY.
WELL, BADLY = (0.0, -1.0, 1.0), (0.0, -0.6, 1.0)


@pytest.fixture
def compare(tmp_path, model_bundle):
    """Return a function that compares a branch with a base.

    Both have 240 cells and the violet bundle by default.
    """

    def _compare(base=None, branch=None, limits=None, first=False, **options):
        sides = {}
        for name, given in (("base", base or {}), ("branch", branch or {})):
            rest = {"found": made.cells(), "bundle": model_bundle, **given}
            sides[name] = made.write(tmp_path / name, name=name, **rest)
        older, newer = None if first else sides["base"], sides["branch"]
        settings = PARAMS.model_copy(
            update={
                "gate": PARAMS.gate.model_copy(update={**LIMITS, **(limits or {})}),
                "evaluate": PARAMS.evaluate.model_copy(update={"resamples": 200}),
            }
        )
        judged, counted = comparison.judged_cells(older, newer)
        return comparison.compare(older, newer, judged, counted, settings, stages=STAGES, **options)

    return _compare


@pytest.fixture
def bundle(tmp_path, model_bundle):
    """Return a function that copies the violet bundle with other colour weights, network or record."""

    def _bundle(mixture=WELL, **edits):
        worse = made.with_weights(model_bundle, tmp_path / "mixed", mixture)
        return made.edited(worse, tmp_path / "edited", **edits)

    return _bundle


def outcomes(judged, outcome="failed"):
    return [check.name for check in judged.checks if check.outcome == outcome]


def said(judged, name):
    return next(check.said for check in judged.checks if check.name == name)


def test_a_worse_model_fails_on_what_it_is_worse_at(compare, bundle):
    judged = verdict.judge(compare(branch={"bundle": bundle(BADLY)}), None)
    assert not judged.mergeable
    assert outcomes(judged) == ["AUC", "operating points"]
    assert judged.headline == "The gate fails: AUC, operating points."


def test_a_better_model_passes(compare, bundle):
    found = compare(base={"bundle": bundle(BADLY)}, limits={"point_loss": 0.2})
    assert verdict.judge(found, None).passed
    auc = found.figure("auc")
    assert auc.low > 0
    assert auc.difference == pytest.approx(auc.branch - auc.base, abs=2e-6)


def test_the_same_model_passes(compare):
    found = compare()
    assert verdict.judge(found, Rerun(stages=())).headline == "The gate passes."
    assert found.flipped == 0


def test_a_loss_within_the_margins_of_params_yaml_passes(compare, bundle):
    limits = {"auc_loss": 0.5, "sensitivity_loss": 0.9, "point_loss": 0.9}
    assert verdict.judge(compare(branch={"bundle": bundle(BADLY)}, limits=limits), None).passed


def biased(content: bytes) -> bytes:
    """The violet network with another bias: cells rank as before, but more are called parasitised."""
    return content.replace(struct.pack("<f", -4.0), struct.pack("<f", -2.0))


def test_a_lower_specificity_at_one_half_fails_though_cells_are_ranked_alike(compare, bundle):
    found = compare(branch={"bundle": bundle(network=biased)})
    judged = verdict.judge(found, None)
    assert found.figure("auc").difference == pytest.approx(0, abs=1e-3)
    assert outcomes(judged) == ["operating points"]
    assert "specificity at 0.5 -0." in said(judged, "operating points")


def test_a_worse_threshold_of_the_app_fails_though_the_network_is_the_same(compare, bundle):
    points = [{"specificity": at, "threshold": 0.05} for at in (0.95, 0.97, 0.99)]
    judged = verdict.judge(compare(branch={"bundle": bundle(operating_points=points)}), None)
    assert outcomes(judged) == ["operating points"]


def test_a_threshold_fixed_for_a_specificity_of_one_half_is_not_the_app_s_default(compare, bundle):
    points = [{"specificity": 0.5, "threshold": 0.99}]
    found = compare(branch={"bundle": bundle(operating_points=points, network=biased)})
    assert "specificity at 0.5 -0." in said(verdict.judge(found, None), "operating points")


def test_an_operating_point_that_the_branch_gives_up_fails(compare, bundle):
    points = [{"specificity": 0.9, "threshold": 0.5}]
    judged = verdict.judge(compare(branch={"bundle": bundle(operating_points=points)}), None)
    assert outcomes(judged) == ["operating points"]
    assert "sensitivity at 0.97 -" in said(judged, "operating points")


@pytest.mark.parametrize("better", [True, False])
def test_a_bundle_is_judged_beside_the_one_that_its_code_makes_here(compare, bundle, model_bundle, better):
    named, rebuilt = (model_bundle, bundle(BADLY)) if better else (bundle(BADLY), model_bundle)
    found = compare(branch={"bundle": named}, rebuilt=rebuilt)
    assert (found.above_here > 0) == better
    assert (found.figure("auc").difference == 0) == better


def test_a_bundle_is_not_above_itself(compare, model_bundle):
    assert compare(rebuilt=model_bundle).above_here == 0


@pytest.fixture
def constant(tmp_path, model_bundle):
    """Return a function that makes a bundle which gives every cell the same log-odds."""

    def _constant(log_odds):
        blind = made.with_weights(model_bundle, tmp_path / f"blind {log_odds}", (0, 0, 0))
        bias = [struct.pack("<f", value) for value in (-4.0, log_odds)]
        return made.edited(blind, tmp_path / f"at {log_odds}", network=lambda content: content.replace(*bias))

    return _constant


@pytest.mark.parametrize(("half", "less"), [("base", "branch"), ("branch", "base")])
def test_one_half_is_called_parasitised_and_47_5_percent_is_not(compare, constant, half, less):
    found = compare(**{half: {"bundle": constant(0.0)}, less: {"bundle": constant(-0.1)}})
    (at_half,) = [one for one in found.figures if (one.name, one.at) == ("sensitivity", 0.5)]
    assert (getattr(at_half, half), getattr(at_half, less)) == (1, 0)
    assert found.flipped == 120
    # No better than chance, in every bootstrap sample of patients.
    assert found.auc_low == 0.5


def test_a_lower_limit_of_auc_under_the_floor_fails_a_first_revision_too(compare, bundle):
    found = compare(branch={"bundle": bundle(BADLY)}, first=True, limits={"min_auc": 0.7})
    assert outcomes(verdict.judge(found, None)) == ["AUC at least"]
    assert found.figure("auc").branch - 0.2 < found.auc_low < found.figure("auc").branch
    assert found.figure("auc").difference is None


def test_a_first_revision_of_too_few_cells_fails(compare):
    judged = verdict.judge(compare(first=True, limits={"min_cells": 121}), None)
    assert outcomes(judged) == ["comparable"]


def test_an_override_is_the_label_of_params_yaml_and_is_said_out_loud(compare, bundle, tmp_path):
    found = compare(branch={"bundle": bundle(BADLY)})
    assert not verdict.judge(found, None, pull_labels=["documentation"]).mergeable
    judged = verdict.judge(found, None, pull_labels=["documentation", "gate-override"])
    assert judged.mergeable
    assert not judged.passed
    assert "overridden by the label gate-override" in judged.headline
    assert "Somebody decided to override the gate" in rendering.page(found, judged, tmp_path)
    assert "FAILS" in summary.markdown(rendering.numbers(found, judged))


def test_a_gate_that_passes_is_not_overridden_by_a_label(compare):
    assert verdict.judge(compare(), None, pull_labels=["gate-override"]).overridden == ""


def test_a_bundle_of_a_format_that_the_base_cannot_read_is_a_verdict_of_its_own(compare, bundle, tmp_path):
    found = compare(branch={"bundle": bundle(schema_version=99)})
    judged = verdict.judge(found, None)
    assert "format" in outcomes(judged)
    assert said(judged, "format").startswith("not judged: the format changed (")
    assert found.figures == ()
    # The page shows the branch's own figures, as a claim.
    assert "auc 0.99" in rendering.page(found, judged, tmp_path)
    assert verdict.judge(found, None, pull_labels=["gate-override"]).mergeable


@pytest.mark.parametrize(
    "edit", [{"network": lambda _: b"no network"}, {"input_size": 0}, {"temperature": float("nan")}]
)
def test_a_bundle_that_gives_no_probability_is_a_verdict_too(compare, bundle, edit):
    found = compare(branch={"bundle": bundle(**edit)})
    assert "format" in outcomes(verdict.judge(found, None))


def test_a_base_without_code_that_judges_needs_a_label(compare):
    assert outcomes(verdict.judge(compare(own_code=True), None)) == ["judge"]


def test_what_the_branch_says_of_itself_decides_nothing(compare, bundle):
    found = compare(branch={"bundle": bundle(BADLY)})
    assert found.claims["auc"] == 0.99
    assert found.figure("auc").branch < 0.7


def test_claims_of_another_form_stop_no_judge(compare, tmp_path):
    external = {"lab": {"auc": {"value": "0.9"}, "cells": {"healthy": 3}}}
    found = compare(branch={"external": external, "summary": {"auc": 0.99, "cells": "drawn"}})
    assert found.claims == {"auc": 0.99, "cells": "drawn"}
    assert found.elsewhere == ()
    assert "cells drawn" in rendering.page(found, verdict.judge(found, None), tmp_path / "branch")


def test_too_few_common_cells_are_not_comparable(compare):
    judged = verdict.judge(compare(limits={"min_cells": 121}), None)
    assert outcomes(judged) == ["comparable"]
    assert "AUC" in outcomes(judged, "not judged")
    assert "not comparable: 120 of the base's test cells" in said(judged, "comparable")


def test_renamed_files_are_the_same_cells(compare):
    renamed = made.cells()
    renamed = renamed.assign(path=renamed.path.str.replace("cell_", "other_"))
    assert compare(branch={"found": renamed}).judged.cells == 120


def moved(found, some, side="train"):
    return found.assign(split=found.split.mask(some, side))


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_patient_that_moved_is_left_out_and_no_fault(compare, side):
    found = made.cells()
    some = found.patient.isin([f"P{n}" for n in range(5)])
    compared = compare(branch={"found": moved(found, some, side)}, limits={"min_cells": 50})
    assert (compared.judged.cells, compared.judged.patients, compared.judged.left_out) == (70, 7, 50)
    assert verdict.judge(compared, None).passed


def test_a_split_by_image_fails_in_its_own_words(compare):
    found = made.cells()
    some = (found.split == "test") & (found.index % 48 < 24)
    judged = verdict.judge(compare(branch={"found": moved(found, some)}), None)
    assert "by patient" in outcomes(judged)
    assert "12 patients have cells on both sides: the split is not by patient" in said(judged, "by patient")


def test_test_cells_trained_on_under_another_patient_s_name_fail(compare):
    found = made.cells()
    some = found.patient.isin(["P0", "P1"])
    renamed = moved(found, some).assign(patient=found.patient.mask(some, "NEW"))
    judged = verdict.judge(compare(branch={"found": renamed}), None)
    assert outcomes(judged) == ["by patient"]
    assert "20 test cells are trained on under another patient's name" in said(judged, "by patient")


def copies_of_test_cells(number: int) -> pd.DataFrame:
    """The same pictures as P0's, with other file hashes, as train cells of a patient NEW."""
    found = made.cells()
    return found[found.patient == "P0"].assign(
        patient="NEW",
        split="train",
        path=lambda rows: rows.path.str.replace("cell_", f"copy_{number}_"),
        sha256=lambda rows: [f"{number << 200 | int(hash_, 16):064x}" for hash_ in rows.sha256],
    )


@pytest.mark.parametrize(
    "turned", [lambda cell: cell, lambda cell: cell[:, ::-1], np.rot90, lambda cell: np.rot90(cell, 3)]
)
def test_test_cells_trained_on_as_copies_in_other_files_fail(compare, turned):
    both = pd.concat([made.cells(), copies_of_test_cells(1)], ignore_index=True)
    judged = verdict.judge(compare(branch={"found": both, "turned": ("copy_", turned)}), None)
    assert outcomes(judged) == ["by patient"]
    assert "10 test cells are trained on as copies" in said(judged, "by patient")


def test_a_copy_more_of_what_the_base_has_learned_is_no_fault(compare):
    before = pd.concat([made.cells(), copies_of_test_cells(1)], ignore_index=True)
    now = pd.concat([before, copies_of_test_cells(2)], ignore_index=True)
    found = compare(base={"found": before}, branch={"found": now})
    assert (found.judged.cells, found.judged.copies) == (120, 0)


def test_a_test_cell_s_own_file_trained_on_beside_it_fails(compare):
    found = made.cells()
    twice = found[found.patient == "P0"].assign(
        patient="NEW", split="train", path=lambda rows: rows.path.str.replace("cell_", "twice_")
    )
    judged = verdict.judge(compare(branch={"found": pd.concat([found, twice], ignore_index=True)}), None)
    assert outcomes(judged) == ["by patient"]
    assert "10 test cells are trained on under another patient's name" in said(judged, "by patient")


@pytest.mark.parametrize("colour", ["own", "as-is"])
def test_test_cells_among_those_of_other_laboratories_fail_however_they_are_packed(compare, colour):
    wide = ("cell_", lambda cell: np.pad(cell, ((0, 0), (20, 20), (0, 0))))
    branch = {"learnt": "P0", "changed": {"pack.colour": colour}, "turned": wide}
    judged = verdict.judge(compare(base={"turned": wide}, branch=branch), None)
    assert outcomes(judged) == ["by patient"]
    assert "10 test cells are trained on as copies" in said(judged, "by patient")


@pytest.mark.parametrize("marks", ["none", "others", "test cells"])
def test_a_network_to_start_from_may_know_no_test_cell(compare, tmp_path, marks):
    (tmp_path / "start").mkdir()
    (tmp_path / "start/model.keras").write_bytes(b"a network")
    # The first 24 cells are uninfected, each of another patient; the first twelve are test cells.
    known = {"others": range(1000, 1010), "test cells": range(12)}
    if marks in known:
        seen = fingerprints.of(made.seen(made.drawn(number, False)) for number in known[marks])
        (tmp_path / "start/trained_on.npy").write_bytes(fingerprints.to_bytes(seen))
    judged = verdict.judge(compare(branch={"changed": {"train.start": str(tmp_path / "start")}}), None)
    assert outcomes(judged) == ([] if marks == "others" else ["by patient"])


def test_cells_are_judged_by_the_base_s_labels(compare):
    turned = made.cells()
    wrong = turned.index[turned.split == "test"][:7]
    names = {"Parasitized": "Uninfected", "Uninfected": "Parasitized"}
    turned.loc[wrong, "label"] = turned.loc[wrong, "label"].map(names)
    found = compare(branch={"found": turned})
    assert found.judged.relabelled == 7
    assert sum(one.relabelled for one in found.classes) == 7
    assert found.figure("auc").difference == 0


def test_gained_and_lost_cells_are_counted_by_class(compare):
    found = compare(branch={"found": made.cells(count=264, first=24)})
    by_label = {one.name: (one.gained, one.lost) for one in found.classes}
    assert by_label == {"Parasitized": (24, 0), "Uninfected": (24, 24)}
    assert found.patients.gained == found.patients.lost == 0


def test_changed_parameters_are_listed_with_both_values(compare):
    found = compare(branch={"changed": {"train.epochs": 3, "split.ratio": [0.5, 0.25, 0.25]}})
    assert [(change.key, change.branch) for change in found.changes] == [
        ("split.ratio", "[0.5, 0.25, 0.25]"),
        ("train.epochs", "3"),
    ]


def test_the_cells_whose_verdict_changed_most_come_first_and_are_ten(compare, bundle):
    found = compare(branch={"bundle": bundle(network=biased)})
    steps = [abs(flip.branch - flip.base) for flip in found.flips]
    assert found.flipped > len(steps) == 10
    assert steps == sorted(steps, reverse=True)


def test_a_cell_that_is_turned_away_counts_as_wrong(compare, gated_bundle):
    # Four times as wide as high: rejected by a bundle with an out-of-distribution check.
    found = compare(base={"stretched": 60}, branch={"bundle": gated_bundle}, limits={"point_loss": 0.3})
    assert sum(flip.branch is None for flip in found.flips) == 10
    assert found.flipped >= 60
    at_half = {figure.name: figure for figure in found.figures if figure.at == 0.5}
    assert at_half["sensitivity"].difference < -0.3
    assert at_half["specificity"].difference < -0.2
    assert "operating points" in outcomes(verdict.judge(found, None))


@pytest.mark.parametrize("limit", [{"min_side": 51}, {"max_pixels": 2499}])
def test_a_cell_that_apps_refuse_by_the_bundle_s_limits_counts_as_wrong(compare, bundle, limit):
    found = compare(branch={"bundle": bundle(**limit)})
    assert all(
        figure.branch == 0 for figure in found.figures if figure.name in ("sensitivity", "specificity")
    )
    assert outcomes(verdict.judge(found, None)) == ["operating points"]


@pytest.mark.parametrize("limit", [{"min_side": 50}, {"max_pixels": 2500}])
def test_a_cell_at_the_bundle_s_limits_is_taken(compare, bundle, limit):
    assert verdict.judge(compare(branch={"bundle": bundle(**limit)}), None).passed


def test_both_bundles_are_weighed_and_timed(compare):
    found = compare()
    assert found.base.bundle_bytes == found.branch.bundle_bytes > 1000
    assert found.speed.base_ms > 0
    assert found.speed.branch_ms > 0


@pytest.mark.parametrize(
    ("limit", "name"), [({"max_bytes": 1000}, "size"), ({"max_ece": 0.001}, "calibration")]
)
def test_exceeding_a_limit_fails_only_its_own_check(compare, limit, name):
    assert outcomes(verdict.judge(compare(limits=limit), None)) == [name]


def rerun(outputs=(), blind=(), frozen=(), other_processor=False):
    stages = tuple(dict.fromkeys(output.stage for output in outputs))
    found = {"outputs": outputs, "blind": blind, "frozen": frozen, "other_processor": other_processor}
    return Rerun(stages=stages or ("split",), seconds=3, **found)


SAME = Output(stage="split", path="data/splits.csv", first="a" * 32, again="a" * 32)
OTHER = Output(stage="pack", path="data/packed", first="b" * 32, again="c" * 32)
MODEL = Output(stage="train", path="models/model.keras", first="d" * 32, again="e" * 32)


def test_a_rerun_with_another_hash_fails_and_names_the_output(compare):
    judged = verdict.judge(compare(), rerun((SAME, OTHER)))
    assert outcomes(judged) == ["reproducible"]
    assert "another data/packed (cccccccc, not bbbbbbbb)" in said(judged, "reproducible")


def test_another_training_is_said_and_no_fault_where_the_processor_is_another(compare):
    found = compare()
    assert outcomes(verdict.judge(found, rerun((SAME, MODEL)))) == ["reproducible"]
    judged = verdict.judge(found, rerun((SAME, MODEL), other_processor=True))
    assert judged.passed
    assert "another kind of processor" in said(judged, "reproducible")
    # Outputs that do not depend on the processor must still be the same.
    assert outcomes(verdict.judge(found, rerun((OTHER, MODEL), other_processor=True))) == ["reproducible"]


def test_a_training_that_differs_without_the_test_cells_fails(compare):
    found = compare()
    assert outcomes(verdict.judge(found, rerun((SAME,), blind=(MODEL,)))) == ["blind training"]
    assert "blind training" in outcomes(verdict.judge(found, rerun((SAME,), blind=(SAME,))), "passed")


def test_a_frozen_stage_fails(compare):
    judged = verdict.judge(compare(), rerun(frozen=("evaluate",)))
    assert outcomes(judged) == ["reproducible"]
    assert "freezes evaluate" in said(judged, "reproducible")


def test_the_base_s_inputs_with_other_outputs_fail(compare):
    assert outcomes(verdict.judge(compare(contradicted=("train",)), None)) == ["dvc.lock"]


def test_figures_without_an_interval_are_not_comparable(compare, bundle):
    one = made.cells().assign(patient="P1", split="test")
    found = compare(base={"found": one}, branch={"found": one, "bundle": bundle(BADLY)})
    # Without an interval, the value itself counts as the lower limit.
    assert found.auc_low == found.figure("auc").branch
    judged = verdict.judge(found, None)
    assert outcomes(judged) == ["comparable"]
    assert "auc has no interval over 1 patients" in said(judged, "comparable")


def test_the_report_says_everything_it_was_asked_for(compare, bundle, tmp_path):
    found = compare(
        base={"bundle": bundle(BADLY)},
        branch={"changed": {"train.epochs": 3}, "found": made.cells(264)},
        behind=2,
        rules=("ci",),
    )
    judged = verdict.judge(found, None)
    page = rendering.page(found, judged, tmp_path / "branch")
    for expected in (
        "train.epochs", "ms a cell, one core", "The base has 2 commits", "changes how later ones are judged",
        "say nothing of real cells", "are called differently at 0.5", "data:image/png;base64,",
    ):  # fmt: skip
        assert expected in page, expected
    assert "http:" not in page
    assert "https:" not in page
    text = summary.markdown(summary.read(json.dumps(rendering.numbers(found, judged)).encode()))
    for expected in ("| train | ran | 12 |", "| AUC | 0.", "gained: 24", "2 commits", "synthetic sample"):
        assert expected in text, expected


def test_the_report_has_the_figures_on_other_laboratories_of_both(compare, tmp_path):
    def external(auc: float | None) -> dict[str, dict[str, object]]:
        return {"lahore": {"cells": 100, "foreign": True, "auc": {"value": auc, "low": None, "high": None}}}

    found = compare(base={"external": external(0.9)}, branch={"external": external(None)})
    assert [(one.name, one.base, one.branch) for one in found.elsewhere] == [("lahore: auc", 0.9, None)]
    page = rendering.page(found, verdict.judge(found, None), tmp_path / "branch")
    assert "lahore: auc" in page
    assert "0.9000" in page


def test_a_laboratory_that_a_branch_no_longer_evaluates_stays_in_the_report(compare):
    found = compare(base={"external": {"lahore": {"auc": {"value": 0.9}}}}, branch={"external": {}})
    assert [(one.name, one.base, one.branch) for one in found.elsewhere] == [("lahore: auc", 0.9, None)]


def test_names_of_files_cannot_break_out_of_the_report(compare, bundle, tmp_path):
    strange = made.cells()
    bad = "Uninfected/`|<img src=x onerror=alert(1)>@all.png"
    strange.loc[strange.index[strange.split == "test"][0], "path"] = bad
    found = compare(base={"found": strange}, branch={"found": strange, "bundle": bundle(network=biased)})
    flip = comparison.Flip(path=bad, label="Uninfected", base=0, branch=1)
    found = found.model_copy(update={"flips": (flip,)})
    assert "<img src=x" not in rendering.page(found, verdict.judge(found, None), tmp_path)
    assert "alert" not in json.dumps(rendering.numbers(found, verdict.judge(found, None)))


def test_a_comparison_survives_being_written_and_read(compare):
    found = compare()
    assert comparison.Comparison.model_validate_json(found.model_dump_json()) == found
    assert "NaN" not in json.dumps(found.model_dump(mode="json"))


def test_the_sample_takes_the_source_s_place_and_keeps_the_comments(tmp_path):
    file = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    file.write_text(text.replace("  source: sample ", "  source: nlm "))
    assert revisions.use_sample(file)
    assert load_params(file).data.source == "sample"
    assert "# sample (drawn by the project)" in file.read_text()
    assert not revisions.use_sample(file)


def test_an_entry_whose_outputs_are_nowhere_is_dropped_and_the_rest_stays(finished, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(finished, clone)
    (clone / "data/splits.csv").unlink()
    (clone / "models/model.keras").unlink()
    md5 = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]["train"]["outs"][0]["md5"]
    (clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    assert revisions.drop_missing(clone) == ["train"]
    assert (clone / "data/splits.csv").is_file()
    assert "train" not in revisions.lock_of(clone)
    assert "split" in revisions.lock_of(clone)


def test_the_lock_has_stages_without_dependencies_or_without_outputs_too(tmp_path):
    (tmp_path / "dvc.lock").write_text(
        "stages:\n  look:\n    cmd: a\n    deps:\n    - path: cells\n"
        "  draw:\n    cmd: b\n    outs:\n    - path: plot\n"
    )
    (tmp_path / "dvc.yaml").write_text("stages: {look: {}, draw: {}}")
    lock = revisions.lock_of(tmp_path)
    assert [[one["path"] for one in lock["look"][kind]] for kind in ("deps", "outs")] == [["cells"], []]
    assert [[one["path"] for one in lock["draw"][kind]] for kind in ("deps", "outs")] == [[], ["plot"]]


def test_a_table_that_lists_a_cell_twice_is_refused(compare):
    found = made.cells()
    twice = pd.concat([found, found[:1].assign(sha256="0" * 64)])
    with pytest.raises(
        UserError, match=r"data/cells\.csv lists Uninfected/cell_00000\.png twice: run `dvc repro"
    ):
        compare(branch={"found": twice})


def test_too_few_of_the_base_s_test_patients_are_not_comparable(compare):
    found = made.cells()
    some = found.patient.isin([f"P{n}" for n in range(7)])
    judged = verdict.judge(compare(branch={"found": moved(found, some)}, limits={"min_cells": 10}), None)
    assert outcomes(judged) == ["comparable"]
    assert "of the base's 12 test patients 5 are left" in said(judged, "comparable")


def test_a_bundle_that_turns_away_less_of_what_is_no_cell_fails(compare, gated_bundle):
    judged = verdict.judge(compare(base={"bundle": gated_bundle}), None)
    assert "not cells" in outcomes(judged)
    assert "0.0% are turned away, by the base 100.0%" in said(judged, "not cells")


def test_it_is_said_how_many_test_patients_are_new_and_gone(compare):
    before = made.cells(240, patients=24)
    stay = before[~before.patient.isin(["P0", "P1", "P23"])]
    newer = made.cells(48, patients=12, first=1200).assign(patient=lambda rows: "N" + rows.patient)
    found = compare(branch={"found": pd.concat([stay, newer], ignore_index=True)})
    assert (found.judged.cells, found.judged.came, found.judged.gone) == (120, 6, 2)
    assert "of the test patients 6 are new and 2 gone" in said(verdict.judge(found, None), "comparable")


@pytest.fixture
def judging(tmp_path, monkeypatch, model_bundle):
    """Return a function that judges a branch against its base, both in git.

    `start` edits the base before the branch is cloned from it. Then `change` edits the branch, and `later`
    the base.

    Returns:
        Exit status; (stages to run again, whether blindly); the comparison; the text of each check.
    """

    def _judging(*arguments, start=None, change=None, later=None, first=False):
        found = made.cells(48, 12)
        limits = {"min_cells": 24, "min_auc": 0.5, "max_ece": 0.5, "rerun": ["pack", "evaluate"]}
        changed = {f"gate.{name}": limit for name, limit in limits.items()} | {"evaluate.resamples": 100}
        base = made.write(tmp_path / "of", found, model_bundle, "base", changed=changed).folder
        hashes = [files.sha256(base / paths.RAW / path) for path in found.path]
        tables.write(found.assign(sha256=hashes), base / paths.CELLS, tables.CELLS)
        stages = {name: {"outs": [{"md5": "a"}]} for name in ("split", "pack", "train", "evaluate", "export")}
        (base / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
        (base / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        git("init", "-q", ".", cwd=base)
        if start:
            start(base)
        commit(base, "base")
        branch = tmp_path / "by"
        git("clone", "-q", str(base), str(branch), cwd=tmp_path)
        for folder, edit in ((branch, change), (base, later)):
            if edit:
                edit(folder)
                commit(folder, "edited")
        git("fetch", "-q", cwd=branch)

        asked = []

        @contextlib.contextmanager
        def run(_branch, stages, _cells, blind):
            asked.extend([stages, blind])
            yield Rerun(stages=stages), None

        seen = []
        monkeypatch.setattr(again, "run", run)
        monkeypatch.setattr(revisions, "work_tree", lambda folder: revisions.Revision("by", "", folder))
        monkeypatch.setattr(rendering, "write", lambda comparison, *_: seen.append(comparison))
        monkeypatch.chdir(base)
        given = [] if first else ["--base", str(base), "--name", "main"]
        monkeypatch.setattr("sys.argv", ["judge", str(branch), *given, *arguments])
        status = judge.main()
        told = json.loads((branch / outputs.VERDICT).read_text())
        return status, tuple(asked), seen[0], {check["name"]: check["said"] for check in told["checks"]}

    return _judging


def relocked(*stages):
    """Return an edit of dvc.lock that gives these stages other inputs and outputs."""

    def _relocked(folder):
        lock = yaml.safe_load((folder / "dvc.lock").read_text())
        for stage in stages:
            lock["stages"][stage] |= {"cmd": "another", "outs": [{"md5": "b"}]}
        (folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))

    return _relocked


@pytest.mark.parametrize(
    ("stages", "arguments", "first", "runs", "blind"),
    [
        (["split"], [], False, ("pack", "evaluate"), False),
        (["evaluate"], [], False, ("pack", "evaluate"), True),
        (["export"], [], False, ("pack", "evaluate"), True),
        (["train"], [], False, ("pack", "train", "evaluate"), True),
        (["train"], ["--report"], False, (), False),
        (["split"], [], True, ("pack", "train", "evaluate"), True),
    ],
)
def test_a_training_runs_again_where_it_differs_and_blindly_where_the_bundle_could(
    judging, stages, arguments, first, runs, blind
):
    _, asked, _, _ = judging(*arguments, change=relocked(*stages), first=first)
    assert asked == (runs, blind)


def test_a_stage_that_a_branch_lacks_is_asked_for_where_its_training_differs_too(judging):
    def change(folder):
        relocked("train")(folder)
        lock = yaml.safe_load((folder / "dvc.lock").read_text())
        lock["stages"]["packing"] = lock["stages"].pop("pack")
        for name in ("dvc.lock", "dvc.yaml"):
            (folder / name).write_text(yaml.safe_dump(lock, sort_keys=False))

    _, (stages, _), _, _ = judging(change=change)
    assert stages == ("train", "evaluate", "pack")


@pytest.mark.parametrize(("arguments", "ends"), [([], 1), (["--report"], 0)])
def test_cells_of_other_bytes_than_their_hash_or_of_none_are_forged(judging, arguments, ends):
    def forged(folder):
        one, other, *_ = sorted((folder / paths.RAW).glob("*/*.png"))
        one.write_bytes(other.read_bytes())
        other.unlink()

    status, _, _, said = judging(*arguments, change=forged)
    assert status == ends
    assert "2 cells have other bytes than their hash" in said["by patient"]


GATE, FIGURES = ("min_cells: 24", "min_cells: 23"), ("resamples: 100", "resamples: 200")


@pytest.mark.parametrize(
    ("by_branch", "by_base", "section"), [(GATE, FIGURES, "gate"), (FIGURES, GATE, "evaluate")]
)
def test_what_a_branch_changes_of_the_judging_is_listed_and_not_what_its_base_changed_since(
    judging, by_branch, by_base, section
):
    def edited(folder, old, new):
        text = (folder / "params.yaml").read_text()
        assert old in text
        (folder / "params.yaml").write_text(text.replace(old, new))

    def loosened(folder):
        edited(folder, *by_branch)
        (folder / "ci").mkdir()
        (folder / "ci/verdict.py").touch()

    def two_commits(folder):
        edited(folder, *by_base)
        commit(folder, "limits")
        (folder / "note.txt").touch()

    status, _, found, _ = judging(change=loosened, later=two_commits)
    assert (status, found.rules, found.behind) == (0, ("ci", f"params.yaml: {section}"), 2)


def test_a_section_that_was_not_there_yet_loosens_nothing(judging):
    whole = []

    def without(folder):
        whole.append((folder / "params.yaml").read_text())
        content = yaml.safe_load(whole[0])
        del content["gate"]
        (folder / "params.yaml").write_text(yaml.safe_dump(content))

    def restored(folder):
        (folder / "params.yaml").write_text(whole[0])

    def restored_apart(folder):
        restored(folder)
        (folder / "data/note.txt").touch()

    _, _, found, _ = judging(start=without, change=restored_apart, later=restored)
    assert (found.rules, found.behind) == ((), 1)
