"""Print the end of `make repro`: the test metrics, and where to look next."""

import json
import os
import sys

from malaria import params, programs, tables
from malaria.command import run_and_exit
from malaria.errors import UserError
from malaria.evaluate import evaluation
from malaria.paths import AUDIT_PAGE, BUNDLE, LOCK, METRICS, PROCESSOR


def main() -> int:
    if not METRICS.is_file():
        raise UserError(f"{METRICS} is missing: run `dvc repro`.")
    scores = json.loads(METRICS.read_text(encoding="utf-8"))[tables.TEST]
    synthetic = params.load_params().data.source == "sample"
    if synthetic:
        print("\nOn the synthetic sample: this shows that the pipeline works, and nothing about real cells.")
    print(f"\n{evaluation.as_text(scores)}\n")
    print(f"  {AUDIT_PAGE}               the data, as a page")
    print("  dvc plots show                   ROC, reliability and more (in the activated environment)")
    print(f"  {BUNDLE}/MODEL_CARD.md  the model card")
    # Without --model the pretrained bundle answers: one that learned from synthetic cells rejects real ones.
    model, option = ("the pretrained model", "") if synthetic else ("it", f" --model {BUNDLE}")
    python = os.path.relpath(sys.executable)
    print(f"  {python} -m malaria predict CELL.png{option}   what {model} says of your cell")
    if note := lock_note():
        print(f"\n{note}")
    return 0


def lock_note() -> str:
    """A note if `dvc.lock` differs from the committed one: what it means and what to do; else empty.

    The same parameters and code give the same bytes on the same kind of processor (docs/reruns.md).
    """
    try:
        committed = programs.git("show", f"HEAD:{LOCK}")
    except UserError:
        return ""
    if committed.strip() == LOCK.read_text(encoding="utf-8").strip():
        return ""
    processor = PROCESSOR.read_text(encoding="utf-8").strip()
    return (
        f"{LOCK} differs from the committed one. If you changed code, parameters or data, commit it with\n"
        f"your change. If not, your processor ({processor}) rounds differently: the\n"
        f"results are as good, and `git checkout {LOCK} reports/summary.json` keeps the committed record."
    )


if __name__ == "__main__":
    run_and_exit(main)
