"""The page as a person meets it: Debian's Chromium, driven by playwright."""

import csv
import io
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.support import app_server, bundles

pytestmark = pytest.mark.long

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PHONE = {"width": 375, "height": 740}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("cells")
    paths = []
    for number, (pixels, _) in enumerate(bundles.drawn_cells()):
        paths.append(folder / f"cell-{number:02}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def browser(chromium):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, live):
    """Opens the page, or the one at `url`; requests to another host and errors of the page fail the test."""
    foreign, errors, contexts = [], [], []

    def opened(url=live.url, **options):
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        own = (url, "data:", "blob:")
        page.on("request", lambda one: None if one.url.startswith(own) else foreign.append(one.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#answer")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert foreign == []
    assert errors == []


def upload(page, file: Path) -> None:
    page.set_input_files("#cell input[type=file]", file)
    page.wait_for_selector("#answer .mc-headline")


def judge(page, files: list[Path]) -> None:
    page.get_by_role("tab", name="Many cells").click()
    page.set_input_files("input[type=file][multiple]", files)
    page.get_by_role("button", name="Judge these cells").click()
    page.wait_for_selector("#totals .mc-total")
    # Gradio draws the rows that are in view, beside a hidden one that it measures.
    page.locator("#table [role=gridcell] img").first.wait_for()


def rows(page) -> int:
    """How many rows the table of many cells has, in view or not."""
    return int(page.locator("#table [role=grid]").get_attribute("aria-rowcount")) - 1


def column(page, number: int) -> list[str]:
    """What the table's rows in view show in a column; the first has number 1."""
    return page.locator(f"#table [role=gridcell][aria-colindex='{number}']").all_inner_texts()


def test_an_uploaded_cell_gets_category_scale_words_and_map(visit, files):
    page = visit()
    upload(page, files[0])
    assert page.locator("#answer .mc-headline").inner_text() in ("Parasitized", "Uninfected")
    assert "P of being parasitised is" in page.locator(".mc-scale").get_attribute("aria-label")
    assert page.locator("#answer img").count() == 2
    page.get_by_text("Research use only. Not a diagnosis.", exact=True).last.wait_for()


def test_an_example_is_judged_and_marked_as_synthetic(visit):
    page = visit()
    page.get_by_text("These are synthetic cells").wait_for()
    page.get_by_role("button", name="Example 1").click()
    page.wait_for_selector("#answer .mc-headline")


def test_a_file_that_is_no_image_gets_a_sentence_in_the_page(visit, tmp_path):
    (tmp_path / "note.png").write_text("no image")
    page = visit()
    upload(page, tmp_path / "note.png")
    assert "cannot be judged" in page.locator("#answer").inner_text()
    assert page.locator("#answer .mc-scale").count() == 0


def test_the_operating_point_moves_every_view(visit, files):
    page = visit()
    upload(page, files[0])
    judge(page, files)
    before = page.locator("#totals .mc-total").inner_text()
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_role("radio", name="0.800: fewest false alarms").focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('#totals').innerText.includes('at 99 % specificity')")
    assert page.locator("#totals .mc-total").inner_text() != before
    page.get_by_role("tab", name="One cell").click()
    assert "divide is at 0.800" in page.locator(".mc-scale").get_attribute("aria-label")


def test_many_cells_sort_filter_and_leave_as_csv(visit, files, tmp_path):
    page = visit()
    bad = "<img src=x onerror=alert(1)>.png"
    (tmp_path / bad).write_text("no image")
    judge(page, [*files, tmp_path / bad])
    assert rows(page) == 13
    page.locator("#table th[aria-colindex='3'] .cell-menu-button").click()
    page.get_by_text("Sort ascending").click()
    page.wait_for_timeout(300)
    shown = [float(text) for text in column(page, 3) if text.strip()]
    assert shown == sorted(shown)
    assert len(shown) > 3
    with page.expect_download() as waiting:
        page.get_by_text("as CSV").click()
    table = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    assert list(table[0]) == ["path", "p_parasitized", "category", "status", "reason"]
    assert [row["path"] for row in table] == [*(file.name for file in files), bad]
    page.get_by_label("Show only cells that need a second look").check()
    page.wait_for_function("document.querySelector('#table [role=grid]').ariaRowCount < 14")


def test_labels_are_hidden_until_the_person_has_said_what_he_sees(visit):
    page = visit()
    page.get_by_role("tab", name="Test it").click()
    page.get_by_role("button", name="Draw new cells").click()
    page.wait_for_selector(".mc-grid li")
    assert page.locator(".mc-grid dl").count() == 0
    page.get_by_role("button", name="I call it Uninfected").click()
    page.wait_for_selector(".mc-grid dl")
    assert page.locator(".mc-grid dl").count() == 1
    page.locator("#board .mc-total", has_text="you").wait_for()
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelectorAll('.mc-grid dl').length === 12")


def test_about_says_what_the_model_is_with_intervals_and_plots(visit):
    page = visit()
    page.get_by_role("tab", name="About").click()
    page.wait_for_selector("#card")
    page.locator(".mc-facts", has_text="0.900 (0.800 to 0.950)").wait_for()
    page.locator("canvas, svg.marks").nth(2).wait_for()


def test_the_page_works_by_keyboard_alone(visit):
    page = visit()
    page.wait_for_selector("#example-1")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "example-1":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer .mc-headline")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, {"width": 1200, "height": 860}], ids=["phone", "desk"])
def test_nothing_is_cut_off_and_no_serious_finding_of_accessibility(visit, axe, files, scheme, size):
    page = visit(viewport=size, color_scheme=scheme)
    upload(page, files[0])
    for tab in ("One cell", "Many cells", "Test it", "About"):
        page.get_by_role("tab", name=tab).click()
        if tab == "Many cells":
            judge(page, files[:3])
        if tab == "Test it":
            page.get_by_role("button", name="Draw new cells").click()
            page.wait_for_selector(".mc-grid li")
            page.get_by_role("button", name="Show all").click()
            page.wait_for_selector(".mc-grid dl")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.evaluate(axe)
        # Gradio paints its changes gradually; colours are judged once they stand still.
        page.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")
        # Gradio's own upload icon is a button in a button, until it is mended there.
        found = page.evaluate("axe.run({exclude: [['.icon-button']]})")["violations"]
        serious = [
            (one["id"], node["html"][:200], node["any"][:1])
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
        assert serious == [], json.dumps(serious, indent=1)


@pytest.fixture
def behind_nginx(model_bundle, tmp_path):
    """Where nginx shows the app, at a path of its own, by the lines of docs/app.md."""
    if shutil.which("nginx") is None:
        pytest.skip("needs nginx")
    documented = re.search(r"```nginx\n(.*?)```", (app_server.ROOT / "docs/app.md").read_text(), re.DOTALL)[1]
    arguments = ("--model", str(model_bundle), "--root-path", "/cells")
    with app_server.start(*arguments, log=tmp_path / "log") as server, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        lines = documented.replace("http://127.0.0.1:7860", server.url)
        (tmp_path / "nginx.conf").write_text(
            "daemon off; pid pid; error_log stderr; events {}\n"
            "http { access_log off; client_body_buffer_size 1m; server {\n"
            f"listen 127.0.0.1:{port};\n{lines} }} }}\n"
        )
        command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"]
        with subprocess.Popen(command) as nginx:
            yield f"http://127.0.0.1:{port}/cells/"
            nginx.terminate()


def test_the_page_works_behind_nginx_at_a_path_of_its_own(visit, behind_nginx, files):
    page = visit(behind_nginx)
    upload(page, files[0])
    assert page.locator("#answer .mc-headline").inner_text() in ("Parasitized", "Uninfected")
    judge(page, files)
    assert rows(page) == 12


def test_dark_mode_is_dark(visit):
    page = visit(color_scheme="dark")
    page.wait_for_selector("body.dark")
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in shade.strip("rgba()").split(",")[:3]) < 60
