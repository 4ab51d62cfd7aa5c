"""The summary of a comparison for a comment on GitHub: numbers and words of a closed list, nothing else.

`ci.rendering` writes it in a run that the code of a fork may have changed. The job that comments has a token
that may write. It uses `read`, which accepts no text but `WORDS`, so that it shows no text of a fork.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

# The words that a summary may contain, and how they are shown.
OUTCOMES = {"passed": "passed", "failed": "**failed**", "not judged": "not judged"}
HOW = {"ran": "ran", "cache": "from the run cache", "unchanged": "unchanged", "changed": "differs from base"}
STAGES = ("fetch", "audit", "split", "pack", "laboratories", "train", "evaluate", "export", "external")
CHECKS = (
    *("judge", "format", "by patient", "comparable", "AUC", "AUC at least", "sensitivity"),
    *("operating points", "calibration", "not cells", "size", "dvc.lock", "reproducible", "blind training"),
)
FIGURES = {
    "auc": "AUC",
    "sensitivity_at": "sensitivity where specificity is",
    "ece": "calibration error (ECE)",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity at the operating point",
    "specificity": "specificity at the operating point",
    "worst_decile_sensitivity": "sensitivity, worst tenth of patients",
}
WORDS = {*OUTCOMES, *HOW, *STAGES, *CHECKS, *FIGURES}

# Most bytes of a summary, which has some twenty rows.
MOST = 20_000
# Longer numbers would make a longer comment than GitHub accepts.
_LARGEST = 1e12


def read(content: bytes) -> dict[str, Any]:
    """The summary in `content`.

    Raises:
        ValueError: it is no JSON, or has a text that is not one of `WORDS`.
    """
    if len(content) > MOST:
        raise ValueError("a summary is not so long")
    summary = json.loads(content)
    for value in _values(summary):
        allowed = value in WORDS if isinstance(value, str) else value is None or abs(value) < _LARGEST
        if not allowed:
            raise ValueError("a summary holds numbers and known words alone")
    return dict(summary)


def _values(content: Any) -> Iterator[str | float | None]:
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _values(value)
    else:
        yield content


def markdown(summary: dict[str, Any]) -> str:
    """A summary as GitHub's Markdown; other content fails with any of Python's own errors."""
    return "\n".join(_lines(summary))


def headline(failed: Iterable[str], overridden: str) -> str:
    """The verdict in one sentence: the names of failed checks, and what overrides them, in words."""
    names = ", ".join(failed)
    if not names:
        return "The gate passes."
    if overridden:
        return f"The gate FAILS ({names}), overridden by {overridden}."
    return f"The gate fails: {names}."


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    failed = [_allowed(check["name"], CHECKS) for check in summary["checks"] if check["outcome"] == "failed"]
    yield f"## {headline(failed, 'a label' if summary['overridden'] else '')}\n"
    if summary["sample"]:
        yield "Both models were made on the synthetic sample: the figures say nothing of real cells.\n"
    if rules := summary["rules"]:
        yield f"**The branch changes how models are judged ({rules:d} places)**: read that first.\n"
    if summary["behind"]:
        yield f"The base has {summary['behind']:d} commits that this branch lacks.\n"
    yield "| check | outcome |\n|---|---|"
    for check in summary["checks"]:
        yield f"| {_allowed(check['name'], CHECKS)} | {OUTCOMES[check['outcome']]} |"
    yield (
        f"\nOn {summary['cells']:,d} test cells of {summary['patients']:,d} patients, of which "
        f"{summary['flipped']:,d} are called differently at 0.5. Differences are branch minus base, with "
        "95 % intervals over patients.\n"
    )
    yield figures(summary)
    yield "\n| stage | | seconds |\n|---|---|--:|"
    for stage in summary["stages"]:
        seconds = "" if stage["seconds"] is None else f"{stage['seconds']:.0f}"
        yield f"| {_allowed(stage['name'], STAGES)} | {HOW[stage['how']]} | {seconds} |"
    yield (
        f"\nBundle: {summary['bytes']:,d} bytes. Parameters changed: {summary['parameters']:d}; cells "
        f"gained: {summary['gained']:,d}, lost: {summary['lost']:,d}. The artifact `report` of the run has "
        "the page with the reasons, parameters and cells, and DVC's plots of both."
    )


def figures(summary: dict[str, Any]) -> str:
    """The table of figures."""
    rows = ["| figure | base | branch | difference |", "|---|--:|--:|--:|"]
    for figure in summary["figures"]:
        at = "" if figure["at"] is None else f" {figure['at']:g}"
        base, branch = number(figure["base"]), number(figure["branch"])
        rows.append(f"| {FIGURES[figure['name']]}{at} | {base} | {branch} | {difference(figure)} |")
    return "\n".join(rows)


def _allowed(word: str, words: tuple[str, ...]) -> str:
    if word not in words:
        raise KeyError(word)
    return word


def number(value: float | None, sign: str = "") -> str:
    """A figure with four decimals; `none` for None."""
    return "none" if value is None else f"{value:{sign}.4f}"


def difference(figure: dict[str, Any]) -> str:
    """`+0.0123 (-0.0020 to +0.0250)`: branch minus base."""
    if figure["low"] is None or figure["high"] is None:
        return number(figure["difference"], "+")
    low, high = number(figure["low"], "+"), number(figure["high"], "+")
    return f"{number(figure['difference'], '+')} ({low} to {high})"
