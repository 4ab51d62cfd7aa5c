"""Run the cheap stages again in a copy of the work tree: they must give the same bytes.

The stages are those of gate.rerun; each is run with the very inputs that dvc.lock names, out of no cache.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from ci import commands, outputs, revisions
from ci.verdict import Again, Rerun
from malaria import files
from malaria.command import end_with
from malaria.params import load_params


def main() -> int:
    argparse.ArgumentParser(prog="python -m ci.rerun", description=__doc__).parse_args()
    found = rerun(load_params().gate.rerun)
    for output in found.outputs:
        print(f"{'same' if output.first == output.again else 'DIFFERENT':10} {output.again} {output.path}")
    return int(any(output.first != output.again for output in found.outputs))


def rerun(stages: tuple[str, ...]) -> Rerun:
    """Run `stages` again and compare; the record is kept for the same dvc.lock and stages."""
    lock = files.sha256(outputs.LOCK)
    if known := recorded(lock, stages):
        return known
    first = revisions.stages_of(outputs.LOCK.read_text(encoding="utf-8"))
    compared = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "again")
        revisions.copy_of_work_tree(copy)
        commands.dvc("checkout", "--force", "--quiet", cwd=copy)
        for stage in stages:
            for line in commands.dvc_lines(
                "repro", "--force", "--single-item", "--no-run-cache", "--no-commit", stage, cwd=copy
            ):
                print(f"[again] {line}", flush=True)
            again = revisions.stages_of((copy / outputs.LOCK).read_text(encoding="utf-8"))
            made = [
                Again(stage=stage, path=path, first=md5, again=_hashes(again[stage])[path])
                for path, md5 in _hashes(first[stage]).items()
            ]
            compared += made
            if any(output.first != output.again for output in made):
                # The next stages start from the lock's own outputs, or one difference is told as many.
                (copy / outputs.LOCK).write_bytes(outputs.LOCK.read_bytes())
                commands.dvc("checkout", "--force", "--quiet", stage, cwd=copy)
    found = Rerun(
        lock=lock, stages=stages, outputs=tuple(compared), seconds=round(time.monotonic() - begun, 1)
    )
    files.write_json(outputs.RERUN, found.model_dump(mode="json"))
    return found


def _hashes(entry: dict[str, Any]) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in entry.get("outs", ())}


def recorded(lock: str, stages: tuple[str, ...]) -> Rerun | None:
    """What an earlier re-run of `stages` found for the dvc.lock of SHA-256 `lock`; None where none was."""
    try:
        known = Rerun.model_validate_json(outputs.RERUN.read_bytes())
    except (OSError, ValueError):
        return None
    return known if (known.lock, known.stages) == (lock, stages) else None


if __name__ == "__main__":
    end_with(main)
