"""Bring the cells into data/raw/: class folders, and a record of where they are from."""

from malaria import sources
from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import RAW


def main() -> None:
    provenance = sources.write(load_params().data, RAW)
    print(f"{provenance.cells} cells from {provenance.origin}")
    for note in provenance.ignored:
        print(f"Left out: {note}")


if __name__ == "__main__":
    run_stage(main)
