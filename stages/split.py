"""Draw train, val and test by patient, or take a given split from a file.

Your own patients (data.source: folder or fields) keep their side in data/sides.json; new ones are drawn
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
    sides = splits.read_record(SIDES)
    if params.data.source in ("folder", "fields"):
        assigned, summary, sides = splits.extend(cells, params.split, sides)
    else:
        # Cells of the other sources never change, so no sides have to be kept.
        assigned, summary = splits.split(cells, params.split)
    files.write_json(SIDES, asdict(sides))
    tables.write(assigned, SPLITS, tables.SPLITS)
    files.write_json(SPLIT_SUMMARY, asdict(summary))
    for name, side in summary.sides.items():
        print(
            f"{name}: {side.patients} known patients, {side.cells} cells ({side.share:.1%}), "
            f"{side.parasitized} of them parasitised"
        )
    if summary.came or summary.gone:
        print(f"{len(summary.came)} patients were added last, {len(summary.gone)} are gone; the others stay.")
    if not summary.draw:
        print("The split is the one that came with the cells, or with split.file.")
    if not summary.by_patient:
        print("This split is not by patient: figures on it say nothing about new patients.")


if __name__ == "__main__":
    run_stage(main)
