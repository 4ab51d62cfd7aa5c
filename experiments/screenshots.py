"""Take the README's picture of the app, on a synthetic cell: `make screenshots`, needs Debian's chromium.

Serves the newest bundle of this checkout, opens the page in Chromium and writes docs/app.png.
"""

import subprocess
import sys
from pathlib import Path

from malaria.command import end_with

PICTURE = Path("docs/app.png")


def main() -> None:
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "app", "--port", "0", *sys.argv[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as play:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[1]
            browser = play.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--headless", "--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1100, "height": 1180})
            page.goto(url)
            page.get_by_role("button", name="Example 5").click()
            page.wait_for_selector("#answer img")
            # Lets Gradio's spinners fade out of the picture.
            page.wait_for_timeout(1000)
            page.screenshot(path=PICTURE)
            browser.close()
        finally:
            server.terminate()
    print(f"{PICTURE} is written")


if __name__ == "__main__":
    end_with(main)
