"""Bring the cells into data/raw/: class folders, and a record of where they are from."""

from dataclasses import asdict

from malaria import files, sources
from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import PROVENANCE, RAW


def main() -> None:
    data = load_params().data
    with files.atomic_folder(RAW) as folder:
        provenance = sources.fetch(data, folder)
        files.write_json(folder / PROVENANCE.name, asdict(provenance))
    print(f"{provenance.cells} cells from {provenance.origin}")
    for note in provenance.ignored:
        print(f"Left out: {note}")


if __name__ == "__main__":
    run_stage(main)
