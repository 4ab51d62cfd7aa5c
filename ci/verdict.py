"""Whether a branch may be merged: each check of the gate, what it found, and why it failed."""

from collections.abc import Sequence
from typing import Literal

from ci.comparison import Comparison, Figure, Plain
from malaria.params import Gate


class Again(Plain):
    """An output of a stage that was run again: the hashes of both times."""

    stage: str
    path: str
    first: str
    again: str


class Rerun(Plain):
    """The re-run of the cheap stages of the run whose dvc.lock has the SHA-256 `lock`."""

    lock: str
    stages: tuple[str, ...]
    outputs: tuple[Again, ...]
    seconds: float


class Check(Plain):
    """One check of the gate; `outcome` is `not judged` where there was nothing to judge."""

    name: str
    outcome: Literal["passed", "failed", "not judged"]
    said: str


class Verdict(Plain):
    """`passed` is what the checks say; with the label `overridden` it may be merged all the same."""

    passed: bool
    overridden: str
    checks: tuple[Check, ...]

    @property
    def mergeable(self) -> bool:
        return self.passed or bool(self.overridden)

    @property
    def headline(self) -> str:
        """In a sentence."""
        if self.passed:
            return "The gate passes."
        failed = ", ".join(check.name for check in self.checks if check.outcome == "failed")
        if self.overridden:
            return f"The gate FAILS ({failed}), overridden by the label {self.overridden}."
        return f"The gate fails: {failed}."


def judge(found: Comparison, rerun: Rerun | None, pull_labels: Sequence[str] = ()) -> Verdict:
    """Judge a comparison by the limits it carries.

    Args:
        rerun: what the re-run of the cheap stages found; None where there was none.
        pull_labels: the labels on the pull request.
    """
    limits = found.limits
    checks = (
        _comparable(found),
        _not_worse("AUC", found, "auc", limits.auc_loss),
        _not_worse("sensitivity", found, "sensitivity_at", limits.sensitivity_loss),
        _calibrated(found, limits),
        _small(found, limits),
        _reproducible(found, rerun),
    )
    passed = all(check.outcome != "failed" for check in checks)
    overridden = limits.override if limits.override in pull_labels and not passed else ""
    return Verdict(passed=passed, overridden=overridden, checks=checks)


def not_comparable(found: Comparison) -> str:
    """Why no difference can be judged; empty where it can."""
    common, limits = found.common, found.limits
    if common.cells < limits.min_cells:
        also = f" ({common.trained_on:,} more are of patients that one of them trained on)"
        return (
            f"not comparable: {common.cells:,} test cells are held by both and of patients that neither "
            f"trained on{also if common.trained_on else ''}; {limits.min_cells:,} are needed"
        )
    for name in ("auc", "sensitivity_at"):
        figure = found.figures[name]
        if figure.difference is None:
            return f"not comparable: {figure.words} needs cells of both classes"
        if figure.difference and figure.low is None:
            patients = f"{common.patients} patient{'s' if common.patients > 1 else ''}"
            return f"not comparable: {figure.words} has no interval over {patients}"
    return ""


def _comparable(found: Comparison) -> Check:
    if found.base is None:
        return Check(
            name="comparable",
            outcome="not judged",
            said="a first revision: the base has no model, so only the absolute limits count",
        )
    if why := not_comparable(found):
        return Check(name="comparable", outcome="failed", said=why)
    common = found.common
    said = f"{common.cells:,} test cells of {common.patients} patients that neither trained on"
    return Check(name="comparable", outcome="passed", said=said)


def _not_worse(name: str, found: Comparison, key: str, loss: float) -> Check:
    if found.base is None or not_comparable(found):
        return Check(name=name, outcome="not judged", said="nothing to compare with")
    figure = found.figures[key]
    # Without a spread the two are alike under every draw.
    worse = (figure.high if figure.high is not None else 0.0) < -loss
    least = f"more than {loss:g} worse" if loss else "worse"
    beyond = f"the whole interval is {least}" if worse else f"the interval does not say that it is {least}"
    return Check(name=name, outcome="failed" if worse else "passed", said=f"{difference(figure)}: {beyond}")


def difference(figure: Figure) -> str:
    """`AUC +0.0123 (-0.0020 to +0.0250)`: branch minus base."""
    if figure.difference is None:
        return f"{figure.words} cannot be given"
    if figure.low is None or figure.high is None:
        return f"{figure.words} {figure.difference:+.4f}"
    return f"{figure.words} {figure.difference:+.4f} ({figure.low:+.4f} to {figure.high:+.4f})"


def _calibrated(found: Comparison, limits: Gate) -> Check:
    ece = found.branch.test_ece
    said = (
        f"calibration error {ece:.4f} on {found.branch.test_cells:,} test cells, at most {limits.max_ece:g}"
    )
    return Check(name="calibration", outcome="passed" if ece <= limits.max_ece else "failed", said=said)


def _small(found: Comparison, limits: Gate) -> Check:
    size = found.branch.bundle_bytes
    said = f"{size:,} bytes, at most {limits.max_bytes:,}"
    return Check(name="size", outcome="passed" if size <= limits.max_bytes else "failed", said=said)


def _reproducible(found: Comparison, rerun: Rerun | None) -> Check:
    name = "reproducible"
    if not found.limits.rerun:
        return Check(name=name, outcome="not judged", said="gate.rerun names no stage")
    if rerun is None:
        return Check(name=name, outcome="not judged", said="no stage was run again")
    differing = [output for output in rerun.outputs if output.first != output.again]
    stages = ", ".join(rerun.stages)
    if differing:
        first = differing[0]
        said = (
            f"run again, {first.stage} made another {first.path} ({first.again[:8]}, not {first.first[:8]}); "
            f"{len(differing)} of {len(rerun.outputs)} outputs differ"
        )
        return Check(name=name, outcome="failed", said=said)
    said = f"{stages}, run again in {rerun.seconds:.0f} s: the same {len(rerun.outputs)} hashes"
    return Check(name=name, outcome="passed", said=said)
