"""Decide whether a branch may be merged: the checks of the gate, with the outcome and findings of each."""

from collections.abc import Iterable, Sequence
from typing import Literal

from ci.again import OF_PROCESSOR, Output, Rerun
from ci.comparison import Comparison, Figure, Plain
from ci.github import summary

Outcome = Literal["passed", "failed", "not judged"]
Found = tuple[Outcome, str]


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


def judge(found: Comparison, rerun: Rerun | None, pull_labels: Sequence[str] = ()) -> Verdict:
    """Judge a comparison by the limits it carries.

    Args:
        rerun: the result of running stages again; None if nothing was run.
        pull_labels: the labels on the pull request.
    """
    limits = found.limits
    made: dict[str, Found] = {
        "judge": _judge(found),
        "format": _format(found),
        "by patient": _by_patient(found),
        "comparable": _comparable(found),
        "AUC": _not_worse(found, [found.figure("auc")], limits.auc_loss),
        "AUC at least": _at_least(found),
        "sensitivity": _not_worse(found, [found.figure("sensitivity_at")], limits.sensitivity_loss),
        "operating points": _not_worse(found, _points(found), limits.point_loss),
        "calibration": _calibrated(found),
        "not cells": _turned_away(found),
        "size": _at_most("bytes", found.branch.bundle_bytes, limits.max_bytes),
        "dvc.lock": _lock(found),
        "reproducible": _reproducible(rerun, found),
        "blind training": _blind(rerun),
    }
    checks = tuple(Check(name=name, outcome=outcome, said=said) for name, (outcome, said) in made.items())
    passed = all(check.outcome != "failed" for check in checks)
    overridden = limits.override if limits.override in pull_labels and not passed else ""
    return Verdict(passed=passed, partly=rerun is None, overridden=overridden, checks=checks)


def not_comparable(found: Comparison) -> str:
    """Why no figure can be judged; empty if figures can."""
    cells, limits = found.judged, found.limits
    if found.unreadable:
        return "not judged: the format changed"
    if cells.cells < limits.min_cells:
        return (
            f"not comparable: {cells.cells:,} of the base's test cells are of patients that the branch "
            f"neither trained nor tuned on, {cells.left_out:,} are not; {limits.min_cells:,} are needed"
        )
    if found.base and cells.patients < limits.min_patients * cells.tested:
        return (
            f"not comparable: of the base's {cells.tested} test patients {cells.patients} are left, and the "
            f"interval of so few hides a loss; a share of {limits.min_patients:g} is needed"
        )
    for name in ("auc", "sensitivity_at"):
        figure = found.figure(name)
        if figure is None or figure.branch is None:
            return "not comparable: cells of both classes are needed"
        if figure.difference and figure.low is None:
            return f"not comparable: {name} has no interval over {cells.patients} patients"
    return ""


def _judge(found: Comparison) -> Found:
    if found.own_code and found.base:
        return "failed", "the base has no code that judges (ci/judge.py): the branch's own did"
    return "passed", "the branch's own code: a first revision" if found.own_code else "the base's code"


def _format(found: Comparison) -> Found:
    if found.unreadable:
        return "failed", f"not judged: the format changed ({found.unreadable})"
    return "passed", "the bundle is one that this code reads"


def _by_patient(found: Comparison) -> Found:
    cells = found.judged
    wrong = {
        "cells have other bytes than their hash in data/cells.csv says": found.forged,
        "patients have cells on both sides: the split is not by patient": cells.torn,
        "test cells are trained on under another patient's name": cells.renamed,
        "test cells are trained on as copies in other files, or by the network to start from": cells.copies,
    }
    said = "; ".join(f"{count:,} {words}" for words, count in wrong.items() if count)
    return ("failed", said) if said else ("passed", "no test patient is trained on, by the hash of each cell")


def _comparable(found: Comparison) -> Found:
    if why := not_comparable(found):
        return "failed", why
    cells = found.judged
    changed = f"; of the test patients {cells.came} are new and {cells.gone} gone" if found.base else ""
    return "passed", f"{cells.cells:,} of the base's test cells, of {cells.patients} patients{changed}"


def _points(found: Comparison) -> list[Figure | None]:
    return [figure for figure in found.figures if figure.name in ("sensitivity", "specificity")]


def _not_worse(found: Comparison, figures: Iterable[Figure | None], loss: float) -> Found:
    if found.base is None or not_comparable(found):
        return "not judged", "nothing to compare with"
    outcome: Outcome = "passed"
    said = []
    for figure in filter(None, figures):
        # Without an interval every resample gives the same difference.
        worse = (figure.high if figure.high is not None else figure.difference or 0.0) < -loss
        outcome = "failed" if worse else outcome
        at = "" if figure.at is None else f" at {figure.at:g}"
        spread = summary.difference(figure.model_dump())
        said.append(f"{figure.name}{at} {spread}{' is worse' if worse else ''}")
    return outcome, f"{'; '.join(said)}; a loss of {loss:g} is allowed"


def _at_least(found: Comparison) -> Found:
    if not_comparable(found) or found.auc_low is None:
        return "not judged", "no figures"
    enough = found.auc_low >= found.limits.min_auc
    said = f"the lower limit is {found.auc_low:.4f}, at least {found.limits.min_auc:g} is needed"
    return "passed" if enough else "failed", said


def _calibrated(found: Comparison) -> Found:
    figure = found.figure("ece")
    if figure is None or figure.branch is None:
        return "not judged", "no figures"
    return _at_most("calibration error", figure.branch, found.limits.max_ece)


def _turned_away(found: Comparison) -> Found:
    if found.base is None or not_comparable(found):
        return "not judged", "nothing to compare with"
    base, branch = found.turned_away
    said = f"of pictures that are no cells {branch:.1%} are turned away, by the base {base:.1%}"
    return "passed" if branch >= base - found.limits.point_loss else "failed", said


def _at_most(what: str, value: float, limit: float) -> Found:
    return "passed" if value <= limit else "failed", f"{what} {value:,.6g}, at most {limit:,g}"


def _lock(found: Comparison) -> Found:
    if found.contradicted:
        return "failed", f"same inputs as the base's, other outputs: {', '.join(found.contradicted)}"
    return "passed", "no stage has the base's inputs and other outputs"


def _reproducible(rerun: Rerun | None, found: Comparison) -> Found:
    if rerun and rerun.frozen:
        return "failed", f"dvc.yaml freezes {', '.join(rerun.frozen)}: DVC runs no such stage"
    if rerun is None or not rerun.stages:
        return "not judged", "no stage was run again"
    differing = [output for output in rerun.outputs if not output.same]
    elsewhere = rerun.elsewhere and all(output.stage in OF_PROCESSOR for output in differing)
    said = f"{', '.join(rerun.stages)} ran again in {rerun.seconds:.0f} s: {_count(rerun.outputs)}"
    if differing and elsewhere:
        said += "; dvc.lock is of another kind of processor"
        if (found.above_here or 0) > found.limits.auc_loss:
            return "failed", f"{said}, and better than what its code makes here (AUC +{found.above_here:.4f})"
        return "passed", f"{said}, and no better than what its code makes here"
    return "failed" if differing else "passed", said


def _blind(rerun: Rerun | None) -> Found:
    if rerun and rerun.unmade:
        return "failed", f"the bundle cannot be made without the test cells: {rerun.unmade}"
    if rerun is None or not rerun.blind:
        return "not judged", "the bundle is the base's" if rerun and not rerun.frozen else "nothing was made"
    same = all(output.same for output in rerun.blind)
    return "passed" if same else "failed", f"without the test cells there are {_count(rerun.blind)}"


def _count(made: tuple[Output, ...]) -> str:
    differing = [output for output in made if not output.same]
    if not differing:
        return f"the same {len(made)} outputs"
    first = differing[0]
    other = f"{first.again[:8]}, not {first.first[:8]}"
    return f"another {first.path} ({other}), {len(differing)} of {len(made)} differ"
