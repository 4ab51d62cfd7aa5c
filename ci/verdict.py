"""Decide whether a branch may be merged: the checks of the gate, with the outcome and findings of each."""

from collections.abc import Iterable, Sequence
from typing import Literal

from ci.again import OF_PROCESSOR, Output, Rerun
from ci.comparison import Comparison, Figure, Plain
from ci.github import summary

Outcome = Literal["passed", "failed", "not judged"]
Finding = tuple[Outcome, str]


class Check(Plain):
    """One check of the gate; `outcome` is `not judged` if there was nothing to judge."""

    name: str
    outcome: Outcome
    said: str


class Verdict(Plain):
    """The verdict. `passed`: no check failed; `overridden`: the label that lets it through all the same.

    `partly`: no stage was run again, as for a report.
    """

    passed: bool
    partly: bool
    overridden: str
    checks: tuple[Check, ...]

    @property
    def mergeable(self) -> bool:
        return self.passed or bool(self.overridden)

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        if self.passed and self.partly:
            return "No check fails so far: `make gate` also runs stages again."
        failed = (check.name for check in self.checks if check.outcome == "failed")
        return summary.headline(failed, self.overridden and f"the label {self.overridden}")


def judge(comparison: Comparison, rerun: Rerun | None, pull_labels: Sequence[str] = ()) -> Verdict:
    """Judge a comparison by the limits it carries.

    Args:
        rerun: the result of running stages again; None if nothing was run.
        pull_labels: the labels on the pull request.
    """
    limits = comparison.limits
    findings: dict[str, Finding] = {
        "judge": _judging_code(comparison),
        "format": _format(comparison),
        "by patient": _by_patient(comparison),
        "comparable": _comparable(comparison),
        "AUC": _not_worse(comparison, [comparison.figure("auc")], limits.auc_loss),
        "AUC at least": _lowest_auc(comparison),
        "sensitivity": _not_worse(comparison, [comparison.figure("sensitivity_at")], limits.sensitivity_loss),
        "operating points": _not_worse(comparison, _points(comparison), limits.point_loss),
        "calibration": _calibration(comparison),
        "not cells": _not_cells(comparison),
        "size": _at_most("bytes", comparison.branch.bundle_bytes, limits.max_bytes),
        "dvc.lock": _contradictions(comparison),
        "reproducible": _reproducible(rerun, comparison),
        "blind training": _blind(rerun),
    }
    checks = tuple(Check(name=name, outcome=word, said=detail) for name, (word, detail) in findings.items())
    passed = all(check.outcome != "failed" for check in checks)
    overridden = limits.override if limits.override in pull_labels and not passed else ""
    return Verdict(passed=passed, partly=rerun is None, overridden=overridden, checks=checks)


def not_comparable(comparison: Comparison) -> str:
    """Why no figure can be judged; empty if figures can."""
    cells, limits = comparison.judged, comparison.limits
    if comparison.unreadable:
        return "not judged: the format changed"
    if cells.cells < limits.min_cells:
        return (
            f"not comparable: {cells.cells:,} of the base's test cells are of patients that the branch "
            f"neither trained nor tuned on, {cells.left_out:,} are not; {limits.min_cells:,} are needed"
        )
    if comparison.base and cells.patients < limits.min_patients * cells.tested:
        return (
            f"not comparable: of the base's {cells.tested} test patients {cells.patients} are left, and the "
            f"interval of so few hides a loss; a share of {limits.min_patients:g} is needed"
        )
    for name in ("auc", "sensitivity_at"):
        figure = comparison.figure(name)
        if figure is None or figure.branch is None:
            return "not comparable: cells of both classes are needed"
        if figure.difference and figure.low is None:
            return f"not comparable: {name} has no interval over {cells.patients} patients"
    return ""


def _judging_code(comparison: Comparison) -> Finding:
    if comparison.own_code and comparison.base:
        return "failed", "the base has no code that judges (ci/judge.py): the branch's own did"
    return "passed", "the branch's own code: a first revision" if comparison.own_code else "the base's code"


def _format(comparison: Comparison) -> Finding:
    if comparison.unreadable:
        return "failed", f"not judged: the format changed ({comparison.unreadable})"
    return "passed", "the bundle is one that this code reads"


def _by_patient(comparison: Comparison) -> Finding:
    cells = comparison.judged
    faults = {
        "cells have other bytes than their hash in data/cells.csv says": comparison.forged,
        "patients have cells on both sides: the split is not by patient": cells.torn,
        "test cells are trained on under another patient's name": cells.renamed,
        "test cells are trained on as copies in other files, or by the network to start from": cells.copies,
    }
    if detail := "; ".join(f"{count:,} {words}" for words, count in faults.items() if count):
        return "failed", detail
    return "passed", "no test patient is trained on, by the hash of each cell"


def _comparable(comparison: Comparison) -> Finding:
    if reason := not_comparable(comparison):
        return "failed", reason
    cells = comparison.judged
    changed = f"; of the test patients {cells.came} are new and {cells.gone} gone" if comparison.base else ""
    return "passed", f"{cells.cells:,} of the base's test cells, of {cells.patients} patients{changed}"


def _points(comparison: Comparison) -> list[Figure | None]:
    return [figure for figure in comparison.figures if figure.name in ("sensitivity", "specificity")]


def _not_worse(comparison: Comparison, figures: Iterable[Figure | None], loss: float) -> Finding:
    if comparison.base is None or not_comparable(comparison):
        return "not judged", "nothing to compare with"
    outcome: Outcome = "passed"
    details = []
    for figure in filter(None, figures):
        # Without an interval every resample gives the same difference.
        worse = (figure.high if figure.high is not None else figure.difference or 0.0) < -loss
        outcome = "failed" if worse else outcome
        at = "" if figure.at is None else f" at {figure.at:g}"
        difference = summary.difference(figure.model_dump())
        details.append(f"{figure.name}{at} {difference}{' is worse' if worse else ''}")
    return outcome, f"{'; '.join(details)}; a loss of {loss:g} is allowed"


def _lowest_auc(comparison: Comparison) -> Finding:
    if not_comparable(comparison) or comparison.auc_low is None:
        return "not judged", "no figures"
    enough = comparison.auc_low >= comparison.limits.min_auc
    detail = f"the lower limit is {comparison.auc_low:.4f}, at least {comparison.limits.min_auc:g} is needed"
    return "passed" if enough else "failed", detail


def _calibration(comparison: Comparison) -> Finding:
    figure = comparison.figure("ece")
    if figure is None or figure.branch is None:
        return "not judged", "no figures"
    return _at_most("calibration error", figure.branch, comparison.limits.max_ece)


def _not_cells(comparison: Comparison) -> Finding:
    if comparison.base is None or not_comparable(comparison):
        return "not judged", "nothing to compare with"
    base, branch = comparison.turned_away
    detail = f"of pictures that are no cells {branch:.1%} are turned away, by the base {base:.1%}"
    return "passed" if branch >= base - comparison.limits.point_loss else "failed", detail


def _at_most(quantity: str, value: float, limit: float) -> Finding:
    return "passed" if value <= limit else "failed", f"{quantity} {value:,.6g}, at most {limit:,g}"


def _contradictions(comparison: Comparison) -> Finding:
    if comparison.contradicted:
        return "failed", f"same inputs as the base's, other outputs: {', '.join(comparison.contradicted)}"
    return "passed", "no stage has the base's inputs and other outputs"


def _reproducible(rerun: Rerun | None, comparison: Comparison) -> Finding:
    if rerun and rerun.frozen:
        return "failed", f"dvc.yaml freezes {', '.join(rerun.frozen)}: DVC runs no such stage"
    if rerun is None or not rerun.stages:
        return "not judged", "no stage was run again"
    differing = [output for output in rerun.outputs if not output.same]
    other_processor = rerun.other_processor and all(output.stage in OF_PROCESSOR for output in differing)
    detail = f"{', '.join(rerun.stages)} ran again in {rerun.seconds:.0f} s: {_count(rerun.outputs)}"
    if differing and other_processor:
        detail += "; dvc.lock is of another kind of processor, and "
        gain = comparison.above_here or 0
        if gain > comparison.limits.auc_loss:
            return "failed", f"{detail}better than what its code makes here (AUC +{gain:.4f})"
        return "passed", f"{detail}no better than what its code makes here"
    return "failed" if differing else "passed", detail


def _blind(rerun: Rerun | None) -> Finding:
    if rerun and rerun.blind_error:
        return "failed", f"the bundle cannot be made without the test cells: {rerun.blind_error}"
    if rerun is None or not rerun.blind:
        return "not judged", "the bundle is the base's" if rerun and not rerun.frozen else "nothing was made"
    same = all(output.same for output in rerun.blind)
    return "passed" if same else "failed", f"without the test cells there are {_count(rerun.blind)}"


def _count(outputs: tuple[Output, ...]) -> str:
    differing = [output for output in outputs if not output.same]
    if not differing:
        return f"the same {len(outputs)} outputs"
    first = differing[0]
    hashes = f"{first.again[:8]}, not {first.first[:8]}"
    return f"another {first.path} ({hashes}), {len(differing)} of {len(outputs)} differ"
