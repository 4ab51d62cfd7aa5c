"""Cells as data URIs in the page, so that no file is written and no route serves them; synthetic cells."""

import base64
import io

import numpy as np
from PIL import Image

from malaria.cells import synthetic
from malaria.cells.images import Pixels

THUMBNAIL = 48  # px on the longer side
SHOWN = 280  # px on the longer side of an enlarged cell


def data_uri(pixels: Pixels, side: int) -> str:
    """`pixels`, uint8 (h, w, 3), as a WebP data URI with `side` px on its longer side."""
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(out, "WEBP", quality=85, method=2)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def png(pixels: Pixels) -> bytes:
    """`pixels`, uint8 (h, w, 3), as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def cells(count: int, seed: int) -> list[tuple[Pixels, bool]]:
    """Synthetic cells, each of another patient, and whether it is parasitised, as every second one is."""
    return [(cell(seed, number), number % 2 == 0) for number in range(count)]


def cell(seed: int, number: int) -> Pixels:
    """Cell `number` of `cells`, uint8 (h, w, 3)."""
    random = np.random.Generator(np.random.Philox(key=[seed, number]))
    return synthetic.draw(random, synthetic.stain(random), number % 2 == 0)
