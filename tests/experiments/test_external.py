"""experiments.external prints the figures of each set that it is given."""

import sys

from PIL import Image

from app import pictures
from experiments import external


def test_each_set_has_its_figures(model_bundle, tmp_path, capsys, monkeypatch):
    for number, (pixels, infected) in enumerate(pictures.cells(8, seed=5)):
        for name in ("east", "west"):
            file = tmp_path / name / ("Parasitized" if infected else "Uninfected") / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    sets = [str(tmp_path / name) for name in ("east", "west")]
    monkeypatch.setattr(sys, "argv", ["external", *sets, "--model", str(model_bundle)])
    external.main()
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if not line.startswith(" ")] == [
        "east: 8 cells, 4 parasitised, of 8 fields",
        "west: 8 cells, 4 parasitised, of 8 fields",
    ]
