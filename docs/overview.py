"""Draw the README's wide picture of synthetic cells, docs/overview.png, and print the README's badges.

From left to right: drawn cells with the pretrained model's P, one of them with the map of its answer, and the
reliability diagram of the real cells that the model was evaluated on.
"""

import io
import json
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import vl_convert
from PIL import Image, ImageDraw, ImageFont

from app import heatmap, pictures
from malaria import bundle, paths
from malaria.cells import images
from malaria.command import new_parser, run_and_exit

PICTURE = Path("docs/overview.png")
REPOSITORY = "https://github.com/OWNER/malaria-cells"
SIDE, MARGIN = 120, 12
ORANGE, BLUE = "#d95f02", "#3182bd"


def main() -> None:
    new_parser("docs.overview", __doc__).parse_args()
    model = bundle.load(paths.PRETRAINED)
    figures = json.loads((paths.PRETRAINED / bundle.PARTS["figures"]).read_text(encoding="utf-8"))
    picture(model, figures["plots"]["reliability"]).save(PICTURE, optimize=True)
    print(badges(figures))


def badges(figures: dict[str, Any]) -> str:
    """The README's lines of badges, with the AUC of `figures`, the content of `figures.json`."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    scores = figures["sides"][figures["judged"]]
    auc = f"{scores['auc']['value']:.3f} on {scores['patients']} NIH/NLM patients, {figures['judged']}"
    python = project["requires-python"].replace(",", " and ")
    values = {"license": project["license"], "python": python, "AUC": auc}
    ci = f"{REPOSITORY}/actions/workflows/test.yml"
    return "\n".join([f"[![CI]({ci}/badge.svg)]({ci})", *(_badge(*item) for item in values.items())])


def _badge(name: str, value: str) -> str:
    text = quote(value.replace("-", "--").replace(" ", "_"), safe="")
    return f"![{name}: {value}](https://img.shields.io/badge/{name}-{text}-blue)"


def picture(model: bundle.Bundle, reliability: dict[str, list[float]]) -> Image.Image:
    """Cells framed by category, the first with its map, and the diagram with the columns of `reliability`."""
    cells = [pixels for pixels, _ in pictures.cells(6, seed=30)]
    tiles = [_tile(cell, p) for cell, p in zip(cells, model.predict(cells), strict=True)]
    tiles[3:3] = [_tile(cells[0])]
    tiles.append(_tile(heatmap.overlay(cells[0], model.explain(cells[0]))))
    diagram = _diagram(reliability)
    step = SIDE + MARGIN
    canvas = Image.new("RGB", (4 * step + 2 * MARGIN + diagram.width, 2 * step + MARGIN), "white")
    for number, tile in enumerate(tiles):
        canvas.paste(tile, (MARGIN + step * (number % 4), MARGIN + step * (number // 4)))
    canvas.paste(diagram, (4 * step + MARGIN, (canvas.height - diagram.height) // 2))
    return canvas


def _tile(cell: images.Pixels, p: float | None = None) -> Image.Image:
    """A cell; with `p`, also framed and labelled with this probability."""
    tile = Image.fromarray(cell).resize((SIDE, SIDE))
    if p is not None:
        draw = ImageDraw.Draw(tile)
        draw.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=ORANGE if p >= 0.5 else BLUE, width=4)
        draw.text((9, 6), f"P {p:.2f}", "white", ImageFont.load_default(15))
    return tile


def _diagram(reliability: dict[str, list[float]]) -> Image.Image:
    points = [dict(zip(reliability, row, strict=True)) for row in zip(*reliability.values(), strict=True)]
    x = {"field": "mean_probability", "type": "quantitative", "title": "mean calibrated probability"}
    y = {"type": "quantitative", "title": "share parasitised"}
    marks = {"perfect": {"color": "grey"}, "share_parasitized": {"point": True, "color": BLUE}}
    layers = [
        {"mark": {"type": "line", **mark}, "encoding": {"x": x, "y": {**y, "field": field}}}
        for field, mark in marks.items()
    ]
    chart = {"title": "Reliability, real cells, out of fold", "width": 260, "height": 170}
    png = vl_convert.vegalite_to_png({**chart, "data": {"values": points}, "layer": layers}, scale=1)
    return Image.open(io.BytesIO(png)).convert("RGB")


if __name__ == "__main__":
    run_and_exit(main)
