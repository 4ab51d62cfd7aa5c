"""Draw train, val and test by patient, or take the split that a file gives.

Your own patients (data.source: folder or fields) keep the side that data/sides.json says; new ones are drawn
and added.
"""

from dataclasses import asdict

from malaria import files, tables
from malaria.cells import splits
from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import CELLS, SIDES, SPLIT_SUMMARY, SPLITS


def main() -> None:
    params = load_params()
    cells = tables.read(CELLS, tables.CELLS)
    kept = splits.read_kept(SIDES)
    if params.data.source in ("folder", "fields"):
        assigned, summary, kept = splits.extend(cells, params.split, kept)
    else:
        # The other sources never change.
        assigned, summary = splits.split(cells, params.split)
    splits.write_kept(kept, SIDES)
    tables.write(assigned, SPLITS, tables.SPLITS)
    files.write_json(SPLIT_SUMMARY, asdict(summary))
    for name, side in summary.sides.items():
        print(
            f"{name}: {side.patients} known patients, {side.cells} cells ({side.share:.1%}), "
            f"{side.parasitized} of them parasitised"
        )
    if summary.came or summary.gone:
        print(f"{len(summary.came)} patients came last, {len(summary.gone)} are gone; the others stay.")
    if not summary.draw:
        print("The split is the one that came with the cells, or with split.file.")
    if not summary.by_patient:
        print("This split is not by patient: figures on it say nothing of new patients.")


if __name__ == "__main__":
    run_stage(main)
