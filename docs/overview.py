"""Draw the README's wide picture of synthetic cells, docs/overview.png, and print the README's badges.

From left to right: drawn cells with what the pretrained model says, one of them with the map of what
decided, and the reliability diagram of the real cells that the model was judged on.
"""

import argparse
import io
import json
import tomllib
from pathlib import Path
from typing import Any

import vl_convert
from PIL import Image, ImageDraw, ImageFont

from app import heatmap, pictures
from malaria import bundle, paths
from malaria.cells import images
from malaria.command import end_with

PICTURE = Path("docs/overview.png")
REPOSITORY = "https://github.com/OWNER/malaria-cells"
SIDE, MARGIN = 120, 12
ORANGE, BLUE = "#d95f02", "#3182bd"


def main() -> None:
    argparse.ArgumentParser(prog="python -m docs.overview", description=__doc__).parse_args()
    model = bundle.load(paths.PRETRAINED)
    figures = json.loads((paths.PRETRAINED / bundle.PARTS["figures"]).read_text(encoding="utf-8"))
    picture(model, figures["plots"]["reliability"]).save(PICTURE, optimize=True)
    print(badges(figures))


def badges(figures: dict[str, Any]) -> str:
    """The lines of the README, with the AUC of `figures`, the content of `figures.json`."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    side = figures["sides"][figures["judged"]]
    auc = f"{side['auc']['value']:.3f} on {side['patients']} NIH/NLM patients, {figures['judged']}"
    python = project["requires-python"].replace(",", " and ")
    shown = {"license": project["license"], "python": python, "AUC": auc}
    ci = f"{REPOSITORY}/actions/workflows/test.yml"
    return "\n".join(
        [f"[![CI]({ci}/badge.svg)]({ci})", *(_badge(name, value) for name, value in shown.items())]
    )


def _badge(name: str, value: str) -> str:
    text = value.replace("-", "--").replace(" ", "_").replace(">", "%3E").replace("<", "%3C")
    text = text.replace("/", "%2F").replace(",", "%2C").replace("=", "%3D")
    return f"![{name}: {value}](https://img.shields.io/badge/{name}-{text}-blue)"


def picture(model: bundle.Bundle, reliability: dict[str, list[float]]) -> Image.Image:
    """The three panels beside each other; `reliability` has the columns of the diagram."""
    cells = [pixels for pixels, _ in pictures.drawn(6, seed=30)]

    def ask(covered: images.Pixels) -> heatmap.Floats:
        return model.run(covered).p_parasitized

    resized = images.resize(cells[0], model.record.input_size)
    decided = heatmap.overlay(cells[0], heatmap.importance(resized, ask))
    panels = [_judged(cells, model), _framed(cells[0], decided), _diagram(reliability)]
    wide = Image.new(
        "RGB", (sum(panel.width for panel in panels) + 4 * MARGIN, 2 * SIDE + 3 * MARGIN), "white"
    )
    left = MARGIN
    for panel in panels:
        wide.paste(panel, (left, (wide.height - panel.height) // 2))
        left += panel.width + MARGIN
    return wide


def _judged(cells: list[images.Pixels], model: bundle.Bundle) -> Image.Image:
    """Cells in two rows, framed by category, with their probabilities."""
    panel = Image.new("RGB", (3 * (SIDE + MARGIN) - MARGIN, 2 * SIDE + MARGIN), "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(15)
    for number, (cell, p) in enumerate(zip(cells, model.predict(cells), strict=True)):
        left, top = (SIDE + MARGIN) * (number % 3), (SIDE + MARGIN) * (number // 3)
        panel.paste(Image.fromarray(cell).resize((SIDE, SIDE)), (left, top))
        draw.rectangle((left, top, left + SIDE, top + SIDE), outline=ORANGE if p >= 0.5 else BLUE, width=4)
        draw.text((left + 9, top + 6), f"P {p:.2f}", "white", font)
    return panel


def _framed(*sides: images.Pixels) -> Image.Image:
    panel = Image.new("RGB", (SIDE, 2 * SIDE + MARGIN), "white")
    for number, pixels in enumerate(sides):
        panel.paste(Image.fromarray(pixels).resize((SIDE, SIDE)), (0, (SIDE + MARGIN) * number))
    return panel


def _diagram(reliability: dict[str, list[float]]) -> Image.Image:
    points = [dict(zip(reliability, row, strict=True)) for row in zip(*reliability.values(), strict=True)]
    x = {"field": "mean_probability", "type": "quantitative", "title": "mean calibrated probability"}
    y = {"type": "quantitative", "title": "share parasitised"}
    layers = [
        {"mark": {"type": "line", **mark}, "encoding": {"x": x, "y": {**y, "field": field}}}
        for field, mark in (
            ("perfect", {"strokeDash": [4, 4], "color": "grey"}),
            ("share_parasitized", {"point": True, "color": BLUE}),
        )
    ]
    specification = {
        "title": "Reliability, real cells, out of fold",
        "data": {"values": points},
        "width": 260,
        "height": 170,
        "layer": layers,
    }
    return Image.open(io.BytesIO(vl_convert.vegalite_to_png(specification, scale=1))).convert("RGB")


if __name__ == "__main__":
    end_with(main)
