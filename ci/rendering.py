"""A comparison and its verdict as Markdown for a comment, and as a page that holds all it shows."""

import base64
from pathlib import Path

import jinja2

from ci import charts, outputs
from ci.comparison import Change, Comparison, Figure, Flip, Stage
from ci.verdict import Verdict, not_comparable
from malaria import files, labels, paths
from malaria.evaluate import metrics

# Parameters beyond these are counted, not shown: a comment has an end.
MOST_CHANGES = 40

_OUTCOMES = {"passed": "passed", "failed": "**failed**", "not judged": "not judged"}
_HOW = {"ran": "ran", "cache": "from the run cache", "unchanged": "unchanged", "changed": "differs from base"}


def write(found: Comparison, verdict: Verdict) -> None:
    """Write both forms of the report."""
    files.write_text(outputs.MARKDOWN, markdown(found, verdict))
    files.write_text(outputs.PAGE, page(found, verdict))


def markdown(found: Comparison, verdict: Verdict) -> str:
    """The report as GitHub's Markdown; file names and parameters stand in it as code, and alone."""
    return _template("report.md.j2", found, verdict, autoescape=False)


def page(found: Comparison, verdict: Verdict) -> str:
    """The report as HTML in one file, with pictures of the cells whose verdict changed."""
    return _template("report.html.j2", found, verdict, autoescape=True)


def _template(name: str, found: Comparison, verdict: Verdict, autoescape: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": code,
        "side": _side,
        "spread": _spread,
        "category": labels.category,
        "how": lambda stage: _HOW[stage.how],
        "outcome": _OUTCOMES.get,
        "picture": _picture,
    }
    shown: tuple[Change, ...] = found.changes[:MOST_CHANGES]
    text = environment.get_template(name).render(
        found=found,
        verdict=verdict,
        why=not_comparable(found) if found.base else "",
        gained=[one for one in found.data.classes if one.gained or one.lost or one.relabelled],
        changes=shown,
        more_changes=len(found.changes) - len(shown),
        drawings=[charts.drawing(curve) for curve in found.curves],
        mermaids=[charts.mermaid(curve) for curve in found.curves],
        seconds=sum(stage.seconds or 0 for stage in found.stages),
        timed=_timed(found.stages),
        base_colour=charts.BASE,
        branch_colour=charts.BRANCH,
    )
    return text.strip() + "\n"


def code(text: str) -> str:
    """`text` as Markdown's code, on one line and safe inside a table."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return f"`{plain.replace('`', chr(39)).replace('|', '¦')}`" if plain else ""


def _timed(stages: tuple[Stage, ...]) -> bool:
    return any(stage.how in ("ran", "cache") for stage in stages) or all(
        stage.how == "unchanged" for stage in stages
    )


def _side(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _spread(figure: Figure) -> str:
    """Branch minus base, `+0.0123 (-0.0020 to +0.0250)`."""
    return metrics.interval(figure.difference, figure.low, figure.high, "+.4f")


def _picture(flip: Flip) -> str:
    """The cell's own file as a data URI; empty where it is not at hand."""
    file = paths.RAW / flip.path
    kind = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}.get(file.suffix.lower())
    if kind is None or not file.is_file():
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
