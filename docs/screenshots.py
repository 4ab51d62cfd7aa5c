"""Take the README's pictures of the app, on synthetic cells: `make screenshots`, needs Debian's Chromium.

Serves `models/pretrained`, or another bundle by the options of `python -m app`, and writes docs/app*.png: one
cell, many cells, one cell on a phone in the dark.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from app import pictures
from benchmarks import serving
from malaria.command import end_with
from malaria.errors import UserError

DOCS = Path("docs")
DESK, PHONE = (1400, 1150), (390, 1500)
EXAMPLE = "Ring form"
CELLS = 24


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__)
    _, options = parser.parse_known_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise UserError("There is no Chromium here to take pictures with: run `make browser` as root.")
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as folder,
        serving.start(*options, log=Path(folder) / "log") as server,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        one_cell(opened(browser, server.url, DESK), DOCS / "app.png")
        many_cells(opened(browser, server.url, DESK), drawn(Path(folder)), DOCS / "app-many.png")
        one_cell(opened(browser, server.url, PHONE, color_scheme="dark"), DOCS / "app-phone.png")
        browser.close()


def drawn(folder: Path) -> list[Path]:
    """Synthetic cells as files."""
    files = []
    for number, (pixels, _) in enumerate(pictures.drawn(CELLS, seed=2), 1):
        files.append(folder / f"cell-{number:02}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def opened(browser: Any, url: str, size: tuple[int, int], **options: Any) -> Any:
    width, height = size
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    page.goto(url)
    return page


def one_cell(page: Any, picture: Path) -> None:
    page.get_by_role("button", name=EXAMPLE).click()
    page.wait_for_selector("#answer img")
    page.evaluate("window.scrollTo(0, 0)")
    take(page, picture)


def many_cells(page: Any, files: list[Path], picture: Path) -> None:
    page.set_input_files("#bring input[type=file]", files)
    page.locator("#table [role=gridcell] img").first.wait_for()
    take(page, picture)


def take(page: Any, picture: Path) -> None:
    """Write what is in view."""
    # Lets Gradio's spinners fade out of the picture.
    page.wait_for_timeout(1000)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(picture, optimize=True)
    print(f"{picture} is written")


if __name__ == "__main__":
    end_with(main)
