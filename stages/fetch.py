"""Bring the cells into data/raw/: class folders, and a record of their origin."""

from pathlib import Path

from malaria.command import run_stage
from malaria.fetch import sources
from malaria.params import load_params
from malaria.paths import RAW


def main(cache_dir: Path | None) -> None:
    provenance = sources.write(load_params().data, RAW, cache_dir)
    print(f"{provenance.cells:,} cells from {provenance.origin}")
    for note in provenance.ignored:
        print(f"Left out: {note}")


if __name__ == "__main__":
    run_stage(main, cache_dir="keep downloads here, not in MALARIA_CACHE or the user's cache folder")
