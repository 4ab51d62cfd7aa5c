"""Take the README's pictures of the app, on synthetic cells: `make screenshots`, needs Debian's Chromium.

Serves `models/pretrained`, or another bundle by the options of `python -m app`, and writes docs/app*.png: one
cell, many cells, one cell on a phone with a dark theme.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from app import pictures
from benchmarks import serving
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError

DOCS = Path("docs")
DESK, PHONE = (1400, 1150), (390, 1500)


def main() -> None:
    _, arguments = new_parser("docs.screenshots", __doc__).parse_known_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        chromium() as browser,
        serving.start(*arguments, log=Path(folder) / "log") as server,
    ):
        for (width, height), scheme, prepare, picture in PICTURES:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(server.url)
            prepare(page)
            # Wait until Gradio's spinners have faded out.
            page.wait_for_timeout(1000)
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            image.save(DOCS / picture, optimize=True)
            print(f"{DOCS / picture} is written")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright, while the block runs; UserError if it is not installed."""
    program = shutil.which("chromium")
    if program is None:
        raise UserError("There is no Chromium here to take pictures with: run `make browser` as root.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def one_cell(page: Any) -> None:
    page.get_by_role("button", name="Ring form").click()
    page.wait_for_selector("#answer img")
    page.evaluate("window.scrollTo(0, 0)")


def many_cells(page: Any) -> None:
    files = [
        {"name": f"cell-{number:02}.png", "mimeType": "image/png", "buffer": pictures.png(pixels)}
        for number, (pixels, _) in enumerate(pictures.cells(24, seed=2), 1)
    ]
    page.set_input_files("#bring input[type=file]", files)
    page.locator("#table [role=gridcell] img").first.wait_for()


PICTURES = (
    (DESK, "light", one_cell, "app.png"),
    (DESK, "light", many_cells, "app-many.png"),
    (PHONE, "dark", one_cell, "app-phone.png"),
)


if __name__ == "__main__":
    run_and_exit(main)
