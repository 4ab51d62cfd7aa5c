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


def write(found: Comparison, verdict: Verdict, folder: Path) -> None:
    """Write page, numbers and comparison into the branch's folder, with DVC's plots of both revisions."""
    files.write_json(folder / outputs.SUMMARY, numbers(found, verdict))
    files.write_json(folder / outputs.COMPARISON, found.model_dump(mode="json"))
    if found.base is not None:
        try:
            programs.dvc("plots", "diff", "--out", str(outputs.PLOTS), found.base.commit, cwd=folder)
        except UserError as error:
            print(f"DVC draws no plots of both: {error}")
    files.write_text(folder / outputs.PAGE, page(found, verdict, folder))


def numbers(found: Comparison, verdict: Verdict) -> dict[str, Any]:
    """The content of summary.json, which `ci.github.summary` shows in a comment."""
    return {
        **found.model_dump(include={"behind", "flipped", "figures"}),
        **found.judged.model_dump(include={"cells", "patients"}),
        "overridden": bool(verdict.overridden),
        "sample": found.branch.source == "sample" or found.sample,
        "rules": len(found.rules),
        "bytes": found.branch.bundle_bytes,
        "parameters": len(found.changes),
        "gained": sum(one.gained for one in found.classes),
        "lost": sum(one.lost for one in found.classes),
        "checks": [{"name": check.name, "outcome": check.outcome} for check in verdict.checks],
        "stages": [stage.model_dump() for stage in found.stages if stage.name in summary.STAGES],
    }


def page(found: Comparison, verdict: Verdict, folder: Path) -> str:
    """The report as HTML in one file, with pictures of the cells whose verdict changed."""
    template = templates.environment(Path(__file__).parent, autoescape=True).get_template("report.html.j2")
    return template.render(
        found=found,
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
