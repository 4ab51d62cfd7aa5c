"""What `make repro` closes with: the test metrics, and where to look next."""

import json

from malaria import tables
from malaria.command import end_with
from malaria.errors import UserError
from malaria.evaluate import evaluation
from malaria.params import load_params
from malaria.paths import AUDIT_PAGE, BUNDLE, METRICS


def main() -> int:
    if not METRICS.is_file():
        raise UserError(f"{METRICS} is missing: run `dvc repro`.")
    scores = json.loads(METRICS.read_text(encoding="utf-8"))[tables.TEST]
    if load_params().data.source == "sample":
        print("\nOn the synthetic sample: this shows that the pipeline works, and nothing about real cells.")
    print(f"\n{evaluation.as_text(scores)}\n")
    print(f"  {AUDIT_PAGE}               the data, as a page")
    print("  dvc plots show                   ROC, reliability and more (in the activated environment)")
    print(f"  {BUNDLE}/MODEL_CARD.md  the model card")
    print(f"  python -m malaria predict CELL.png --model {BUNDLE}   what it says of your cell")
    return 0


if __name__ == "__main__":
    end_with(main)
