"""Draw train, val and test by patient, or take the split that a file gives."""

from dataclasses import asdict

from malaria import files, tables
from malaria.cells import splits
from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import CELLS, SPLIT_SUMMARY, SPLITS


def main() -> None:
    params = load_params().split
    cells = tables.read(CELLS, tables.CELLS)
    assigned, summary = splits.split(cells, params)
    tables.write(assigned, SPLITS, tables.SPLITS)
    files.write_json(SPLIT_SUMMARY, asdict(summary))
    for name, side in summary.sides.items():
        print(
            f"{name}: {side.patients} known patients, {side.cells} cells ({side.share:.1%}), "
            f"{side.parasitized} of them parasitised"
        )
    if not summary.draw:
        print("The split is the one that came with the cells, or with split.file.")
    if not summary.by_patient:
        print("This split is not by patient: figures on it say nothing of new patients.")


if __name__ == "__main__":
    run_stage(main)
