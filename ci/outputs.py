"""Paths of the files that `ci` writes, that git tracks of a run, and that decide how branches are judged."""

from pathlib import Path, PurePath

from malaria import paths

LOCK = paths.LOCK

# The files that a run changes and git tracks, in the order of the stages.
TRACKED = (LOCK, paths.SIDES, paths.SUMMARY)

# Files of reports lie here, and are never committed.
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

# A change of these files changes how later branches are judged, or what starts the base's code.
RULES = (
    *(".dvc", ".dvcignore", ".github", ".python-version", "Makefile", "ci", "remote", "requirements.lock"),
    *("malaria/bundle", "malaria/cells/fork_server.py", "malaria/evaluate", "malaria/train/processor.py"),
    *("malaria/__init__.py", "malaria/cells/__init__.py", "malaria/train/__init__.py"),
    *(f"malaria/cells/{name}.py" for name in ("decoding", "doubtful_labels", "images", "names", "pack")),
    *(f"malaria/cells/{name}.py" for name in ("packed", "patients", "prepare", "prepared", "sandbox")),
    *(f"malaria/{name}.py" for name in ("command", "errors", "files", "labels", "params")),
    *(f"malaria/{name}.py" for name in ("paths", "processes", "programs", "running", "tables", "templates")),
)


def rule(file: str) -> str:
    """The entry of `RULES` that contains a changed file, or that Python would take it for; empty if none.

    For a file at or below a new name at the top of the tree, it is that name: Python could import it in place
    of a library.
    """
    top = PurePath(file).parts[0]
    new = "" if Path(top).exists() else top
    return next((entry for entry in RULES if _module(file).is_relative_to(_module(entry))), new)


def _module(file: str) -> PurePath:
    """The path of a module without its ending, since a package, a library and bytecode go before its .py."""
    *folders, name = PurePath(file).parts
    stem = name[0] + name[1:].partition(".")[0]
    return PurePath(*(folder for folder in folders if folder != "__pycache__"), stem)
