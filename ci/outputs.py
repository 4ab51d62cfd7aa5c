"""Where the modules of `ci` keep what they make, what git keeps of a run, and which files judge."""

from pathlib import Path

from malaria import paths

LOCK = paths.LOCK

# The files that a run changes and git keeps, in the order of the stages.
KEPT = (LOCK, paths.SIDES, paths.SUMMARY)

# What is made for a report lies here, and is never committed.
REPORTS = Path("reports/ci")
RUN = REPORTS / "run.json"
COMPARISON = REPORTS / "comparison.json"
VERDICT = REPORTS / "verdict.json"
SUMMARY = REPORTS / "summary.json"
PAGE = REPORTS / "report.html"
PLOTS = REPORTS / "plots"
DRIFT = REPORTS / "drift.md"
RETRAINED = REPORTS / "retrained"
RELEASE = REPORTS / "release"

# A change of these files changes how later branches are judged.
RULES = (
    *(".github", "Makefile", "ci", "remote", "requirements.lock"),
    *("malaria/bundle", "malaria/evaluate", "malaria/cells/images.py"),
    # What starts the base's code, too.
    *(f"malaria/{name}.py" for name in ("command", "errors", "files", "params", "paths", "programs")),
    *(f"malaria/{name}.py" for name in ("running", "tables", "templates")),
)
