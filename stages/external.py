"""Evaluate the exported bundle on other laboratories' cells, on which nothing was trained."""

from pathlib import Path

from malaria import bundle, files
from malaria.command import run_stage
from malaria.fetch import laboratories
from malaria.params import load_params
from malaria.paths import BUNDLE, EXTERNAL
from malaria.predict import external


def main() -> None:
    params = load_params()
    model = bundle.load(BUNDLE, threads=1)
    sets = laboratories.sets(Path(params.external.folder))
    scores = {name: external.judge(model, path, params) for name, path in sets.items()}
    files.write_json(EXTERNAL, scores)
    print(external.as_text(scores) or f"{params.external.folder} holds no set of another laboratory.")


if __name__ == "__main__":
    run_stage(main)
