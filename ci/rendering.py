"""Write a comparison and its verdict: as one self-contained HTML page, and as numbers for a comment."""

import base64
from pathlib import Path
from typing import Any

from ci import outputs
from ci.comparison import Comparison
from ci.github import summary
from ci.verdict import Verdict
from malaria import files, labels, paths, programs, templates
from malaria.errors import UserError


def write(comparison: Comparison, verdict: Verdict, folder: Path) -> None:
    """Write page, numbers and comparison into the branch's folder, with DVC's plots of both revisions."""
    files.write_json(folder / outputs.SUMMARY, numbers(comparison, verdict))
    files.write_json(folder / outputs.COMPARISON, comparison.model_dump(mode="json"))
    if comparison.base is not None:
        try:
            programs.dvc("plots", "diff", "--out", str(outputs.PLOTS), comparison.base.commit, cwd=folder)
        except UserError as error:
            print(f"DVC draws no plots of both: {error}")
    files.write_text(folder / outputs.PAGE, page(comparison, verdict, folder))


def numbers(comparison: Comparison, verdict: Verdict) -> dict[str, Any]:
    """The content of summary.json, which `ci.github.summary` shows in a comment."""
    return {
        **comparison.model_dump(include={"behind", "flipped", "figures"}),
        **comparison.judged.model_dump(include={"cells", "patients"}),
        "overridden": bool(verdict.overridden),
        "sample": comparison.branch.source == "sample" or comparison.sample,
        "rules": len(comparison.rules),
        "bytes": comparison.branch.bundle_bytes,
        "parameters": len(comparison.changes),
        "gained": sum(cells.gained for cells in comparison.classes),
        "lost": sum(cells.lost for cells in comparison.classes),
        "checks": [{"name": check.name, "outcome": check.outcome} for check in verdict.checks],
        "stages": [stage.model_dump() for stage in comparison.stages if stage.name in summary.STAGES],
    }


def page(comparison: Comparison, verdict: Verdict, folder: Path) -> str:
    """The report as HTML in one file, with pictures of the cells whose verdict changed."""
    template = templates.environment(Path(__file__).parent, autoescape=True).get_template("report.html.j2")
    return template.render(
        comparison=comparison,
        verdict=verdict,
        summary=summary,
        category=labels.category,
        picture=lambda flip: _picture(folder / paths.RAW / flip.path),
        plots=outputs.PLOTS.name if (folder / outputs.PLOTS / "index.html").is_file() else "",
    )


def _picture(file: Path) -> str:
    """The cell's file as a data URI; empty if it is missing, or neither PNG nor JPEG."""
    kind = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}.get(file.suffix.lower())
    if kind is None or not file.is_file():
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
