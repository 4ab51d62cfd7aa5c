"""The app's page in a browser: Debian's Chromium, driven by Playwright."""

import base64
import csv
import io
import json
import re
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from app import uploads
from app.page import EXAMPLES
from malaria import labels
from tests.support import app_server, bundles

pytestmark = pytest.mark.long

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1400, "height": 900}
BOTH = pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])


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


@pytest.fixture(scope="module")
def mapped(mapped_bundle, tmp_path_factory):
    """The app with a bundle that gives maps, and four labelled cells that the bundle was made with."""
    folder = tmp_path_factory.mktemp("labelled")
    for number, (pixels, parasitized) in enumerate(bundles.drawn_cells()[:4]):
        (folder / labels.LABELS[parasitized]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / labels.LABELS[parasitized] / f"{number}.png")
    arguments = ("--model", str(mapped_bundle), "--cells", str(folder))
    with app_server.start(*arguments, log=folder / "log") as server:
        yield server


@pytest.fixture
def visit(browser, live):
    """Return a function that opens the page at `url` (default: the app's).

    Requests to another host and JavaScript errors fail the test.
    """
    foreign, errors, contexts = [], [], []

    def opened(url=live.url, **options):
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        own = (url, "data:", "blob:")
        page.on("request", lambda one: None if one.url.startswith(own) else foreign.append(one.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#upload")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert foreign == []
    assert errors == []


def upload(page, *files: Path) -> None:
    page.set_input_files("#bring input[type=file]", files)
    page.wait_for_selector("#answer .mc-headline" if len(files) == 1 else "#totals .mc-total")


def judge(page, files: list[Path]) -> None:
    upload(page, *files)
    # Gradio renders only the rows in view, and one hidden row that it measures.
    page.locator("#table [role=gridcell] img").first.wait_for()


def in_view(page, selector: str) -> bool:
    """Whether the element is fully inside the window in height, after the page has scrolled."""
    page.wait_for_timeout(400)
    box = page.locator(selector).first.bounding_box()
    return box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"]


def rows(page) -> int:
    """The number of rows of the batch table, in view or not."""
    return int(page.locator("#table [role=grid]").get_attribute("aria-rowcount")) - 1


def column(page, number: int) -> list[str]:
    """The texts of a column in the table rows in view; the first column has number 1."""
    return page.locator(f"#table [role=gridcell][aria-colindex='{number}']").all_inner_texts()


@BOTH
def test_an_uploaded_cell_gets_its_category_in_view_right_under_its_picture(visit, files, size):
    page = visit(viewport=size)
    upload(page, files[0])
    assert page.locator("#answer .mc-headline").inner_text() in ("Parasitized", "Uninfected")
    assert in_view(page, "#answer .mc-headline")
    assert "P of being parasitised is" in page.locator(".mc-scale").get_attribute("aria-label")
    picture, headline = (page.locator(one).first.bounding_box() for one in ("#answer img", ".mc-headline"))
    # On a wide screen the category is beside the picture, so the difference is negative.
    assert headline["y"] - picture["y"] - picture["height"] < 80
    assert page.get_by_text("Research use only. Not a diagnosis.", exact=True).count() == 1
    assert page.evaluate(
        "[...document.querySelectorAll('main *')].every((one) => getComputedStyle(one).position !== 'fixed')"
    )


@pytest.mark.parametrize(
    "size", [PHONE, DESK, {"width": 844, "height": 390}], ids=["phone", "desk", "across"]
)
def test_a_named_example_is_judged_in_view_and_marked_as_synthetic(visit, size):
    page = visit(viewport=size)
    page.get_by_text("a synthetic cell").wait_for()
    tiles = [page.get_by_role("button", name=name).bounding_box() for name in EXAMPLES]
    assert len({(round(tile["width"]), round(tile["height"])) for tile in tiles}) == 1
    page.get_by_role("button", name="Ring form").click()
    page.wait_for_selector("#answer .mc-headline")
    assert in_view(page, "#answer .mc-headline")


@BOTH
def test_a_map_stands_where_single_places_decide_and_a_sentence_where_none_does(visit, mapped, files, size):
    page = visit(mapped.url, viewport=size)
    page.get_by_role("button", name="Ring form").click()
    page.wait_for_selector("#answer .mc-map")
    page.get_by_role("button", name="Healthy").click()
    page.wait_for_selector("#answer .mc-nomap")
    assert "no single place decides" in page.locator("#answer").inner_text()
    assert page.locator("#answer .mc-map").count() == 0
    other = visit(viewport=size)
    upload(other, files[0])
    assert "does not tell what its answer comes from" in other.locator("#answer .mc-nomap").inner_text()


def test_a_file_that_is_no_image_gets_a_sentence_in_the_page(visit, tmp_path):
    (tmp_path / "note.png").write_text("no image")
    page = visit()
    upload(page, tmp_path / "note.png")
    assert "cannot be judged" in page.locator("#answer").inner_text()
    assert page.locator("#answer .mc-scale").count() == 0


def test_a_tiff_has_a_picture(visit, files, tmp_path):
    Image.open(files[0]).save(tmp_path / "cell.tiff")
    page = visit()
    upload(page, tmp_path / "cell.tiff")
    assert page.evaluate("document.querySelector('#answer img').naturalWidth") > 100


@BOTH
def test_the_operating_point_says_its_cost_and_moves_every_view(visit, files, size):
    page = visit(viewport=size)
    judge(page, files)
    before = page.locator("#totals .mc-total").inner_text()
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_role("radio").first.wait_for()
    offered = page.get_by_role("radio").all()
    shown = [one.evaluate("one => one.closest('label').innerText") for one in offered]
    assert [float(text.split(",")[0].split(":")[0]) for text in shown] == [0.5, 0.6, 0.7, 0.8]
    assert all("of 100 parasitised cells 10.0 missed" in text for text in shown)
    page.get_by_role("radio", name="0.800, fewest false alarms: of 100 parasitised").focus()
    page.keyboard.press("Space")
    page.wait_for_function(f"document.querySelector('#totals .mc-total').innerText !== {json.dumps(before)}")
    page.get_by_role("button", name="Ring form").click()
    page.wait_for_selector(
        ".mc-scale[aria-label*='threshold is at 0.800'], .mc-scale[aria-label*='is 0.800']"
    )


@BOTH
def test_what_is_not_judged_is_said_in_red_above_the_figures(visit, files, tmp_path, size):
    (tmp_path / "note.png").write_text("no image")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as pack:
        for number in range(uploads.MAX_CELLS):
            pack.writestr(f"{number}.png", "")
    page = visit(viewport=size)
    assert "Up to 2,500 cells at once" in page.locator(".mc-limits").inner_text()
    upload(page, *files, tmp_path / "note.png", tmp_path / "more.zip")
    said = page.locator("#totals .mc-left-out")
    assert "13 more than the 2,500 cells that are judged at once" in said.inner_text()
    assert "2487 that cannot be read: empty file" in said.inner_text()
    red, green, blue = map(int, re.findall(r"\d+", said.evaluate("one => getComputedStyle(one).color")))
    assert red > green + blue
    # In one call, because the page may be scrolling.
    total = page.locator("#totals .mc-total").element_handle()
    assert said.evaluate(
        "(one, other) => one.getBoundingClientRect().y < other.getBoundingClientRect().y", total
    )
    assert rows(page) == uploads.MAX_CELLS + 1


def test_many_cells_sort_filter_and_leave_as_csv(visit, files, tmp_path):
    page = visit()
    bad = "<img src=x onerror=alert(1)>.png"
    (tmp_path / bad).write_text("no image")
    judge(page, [*files, tmp_path / bad])
    assert rows(page) == 13
    page.locator("#table th[aria-colindex='4'] .cell-menu-button").click()
    page.get_by_text("Sort ascending").click()
    page.wait_for_timeout(300)
    shown = [float(text) for text in column(page, 4) if text.strip()]
    assert shown == sorted(shown)
    assert len(shown) > 3
    with page.expect_download() as waiting:
        page.get_by_text("as CSV").click()
    table = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    assert [row["path"] for row in table] == [*(file.name for file in files), bad]
    assert {row["threshold"] for row in table} == {"0.500000"}
    page.get_by_label("Show only cells that need a second look").check()
    page.wait_for_function("document.querySelector('#table [role=grid]').ariaRowCount < 14")


@BOTH
def test_a_row_opens_its_cell_and_the_next_to_look_at_leads_on(visit, files, size):
    page = visit(viewport=size)
    judge(page, files)
    page.locator("#table th[aria-colindex='4'] .cell-menu-button").click()
    page.get_by_text("Sort descending").click()
    page.wait_for_timeout(300)
    number = page.locator("#table [role=gridcell][aria-colindex='1']").nth(1).inner_text().strip()
    if size == PHONE:
        category = page.locator("#table [role=gridcell][aria-colindex='3']").nth(1).bounding_box()
        assert category["x"] + category["width"] <= size["width"]
    page.locator("#table [role=gridcell][aria-colindex='3']").nth(1).click()
    page.locator(
        "#answer .mc-title", has_text=f"Cell {number} of 12: cell-{int(number) - 1:02}.png"
    ).wait_for()
    assert in_view(page, "#answer .mc-headline")
    page.get_by_role("button", name="Next to look at").click()
    page.locator("#answer .mc-look").wait_for()
    first = page.locator("#answer .mc-title").inner_text()
    page.get_by_role("button", name="Next to look at").click()
    page.wait_for_function(f"document.querySelector('#answer .mc-title').innerText !== {json.dumps(first)}")


GIVEN = """([kind, files]) => {
  const given = new DataTransfer();
  for (const [name, content] of files)
    given.items.add(new File([Uint8Array.from(atob(content), (one) => one.charCodeAt(0))], name));
  document.body.dispatchEvent(kind === "paste"
    ? new ClipboardEvent(kind, { clipboardData: given, bubbles: true })
    : new DragEvent(kind, { dataTransfer: given, bubbles: true, cancelable: true }));
}"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_what_is_pasted_or_dropped_anywhere_is_judged_be_it_one_or_two_or_a_zip(visit, files, tmp_path, kind):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        for file in files[:3]:
            pack.write(file, file.name)
    page = visit()
    page.get_by_role("tab", name="About").click()
    for given, found in (
        (files[:1], "#answer .mc-headline"),
        (files[:2], "#totals .mc-total:has-text('of 2')"),
        ([tmp_path / "cells.zip"], "#totals .mc-total:has-text('of 3')"),
    ):
        content = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in given]
        page.evaluate(GIVEN, [kind, content])
        page.locator(found).wait_for()


def test_the_tabs_answer_arrow_keys_and_the_focus_stays_after_an_upload(visit, files):
    page = visit()
    page.get_by_role("tab", name="Judge cells").focus()
    for name in ("Test it", "About", "Judge cells"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.innerText") == name
        assert page.get_by_role("tab", name=name).get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.innerText") == "About"
    page.keyboard.press("ArrowRight")
    button = page.get_by_role("button", name="Choose cells")
    button.focus()
    # Headless Chromium opens no file chooser for the first key: check only that the key reaches the input.
    page.evaluate("document.querySelector('#bring input[type=file]').onclick = () => { window.asked = true }")
    page.keyboard.press("Enter")
    page.wait_for_function("window.asked")
    page.set_input_files("#bring input[type=file]", files[0])
    page.wait_for_selector("#answer .mc-headline")
    assert page.evaluate("document.activeElement.id") == "upload"


def test_the_page_is_in_one_language_whatever_the_browsers(visit, files):
    words = []
    for locale in ("de-DE", "en-US"):
        page = visit(locale=locale)
        judge(page, files[:2])
        page.locator("#table th[aria-colindex='4'] .cell-menu-button").click()
        # Gradio shows "Loading" to screen readers for a moment.
        words.append(page.locator("body").inner_text().removesuffix("Loading").rstrip())
    assert words[0] == words[1]


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


@BOTH
def test_where_the_model_was_made_with_every_cell_drawn_ones_are_offered(visit, mapped, size):
    page = visit(mapped.url, viewport=size)
    page.get_by_role("tab", name="Test it").click()
    page.get_by_role("button", name="Draw new cells").click()
    page.locator("#board", has_text="There is no score: the model was made with every one").wait_for()
    page.get_by_role("button", name="Draw synthetic cells").click()
    page.locator("#board", has_text="Synthetic cells, drawn just now").wait_for()
    page.get_by_role("button", name="I call it Uninfected").click()
    page.locator("#board .mc-total", has_text="Score: model").wait_for()


@BOTH
def test_about_says_what_the_model_is_once_with_curves_clear_of_the_frame(visit, size):
    page = visit(viewport=size)
    page.get_by_role("tab", name="About").click()
    page.wait_for_selector(".mc-card")
    page.locator("canvas, svg.marks").nth(1).wait_for()
    assert page.locator(".mc-facts table").count() == 1
    facts = page.locator(".mc-facts").last
    assert facts.evaluate("facts => facts.scrollWidth <= facts.clientWidth")
    name = facts.get_by_role("cell", name="Network", exact=True)
    lines = "text.selectNodeContents(name); return text.getClientRects().length;"
    assert name.evaluate(f"name => {{ const text = new Range(); {lines} }}") == 1
    text = page.locator("body").inner_text()
    assert not {"folder", "labels_file", "divide"} & set(re.findall(r"\w+", text))


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
@BOTH
def test_nothing_is_cut_off_and_no_serious_finding_of_accessibility(visit, axe, files, scheme, size):
    page = visit(viewport=size, color_scheme=scheme)
    judge(page, files[:3])
    page.locator("#table [role=gridcell][aria-colindex='3']").nth(1).click()
    page.wait_for_selector("#answer .mc-headline")
    for tab in ("Judge cells", "Test it", "About"):
        page.get_by_role("tab", name=tab).click()
        if tab == "Test it":
            page.get_by_role("button", name="Draw new cells").click()
            page.wait_for_selector(".mc-grid li")
            page.get_by_role("button", name="Show all").click()
            page.wait_for_selector(".mc-grid dl")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.evaluate(axe)
        # Gradio animates changes of colour: wait until they are done.
        page.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")
        found = page.evaluate("axe.run()")["violations"]
        serious = [
            (one["id"], node["html"][:200], node["any"][:1])
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
        assert serious == [], json.dumps(serious, indent=1)


@pytest.fixture
def behind_nginx(model_bundle, tmp_path):
    """The URL of the app behind nginx, under the path /cells/, configured as docs/app.md says."""
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


@BOTH
def test_the_progress_of_a_batch_is_shown_once_and_covers_nothing(visit, files, tmp_path, size):
    page = visit(viewport=size)
    begin_judging_many(page, files, tmp_path)
    boxes = "[...document.querySelectorAll(name)].map((one) => one.getBoundingClientRect())"
    names = "['[role=progressbar]', '.progress-text', '.label-wrap']"
    shown = page.evaluate(f"{names}.map((name) => {boxes}.filter((box) => box.height))")
    bars, texts, further = shown
    assert (len(bars), len(texts)) == (1, 1)
    assert texts[0]["bottom"] <= bars[0]["top"]
    assert bars[0]["bottom"] <= further[0]["top"]


def begin_judging_many(page, files: list[Path], folder: Path) -> None:
    """Upload a zip of as many cells as are judged at once, and wait until they are being judged."""
    Image.open(files[0]).save(folder / "small.jpg")
    with zipfile.ZipFile(folder / "many.zip", "w") as pack:
        for number in range(uploads.MAX_CELLS):
            pack.write(folder / "small.jpg", f"{number}.jpg")
    page.set_input_files("#bring input[type=file]", folder / "many.zip")
    page.get_by_role("progressbar").first.wait_for()


@pytest.mark.parametrize("example", [False, True])
def test_what_is_asked_for_last_is_shown_last(visit, files, tmp_path, example):
    page = visit(viewport=DESK)
    begin_judging_many(page, files, tmp_path)
    if example:
        page.click("#example-1")
    else:
        page.set_input_files("#bring input[type=file]", files[1])
    page.locator("#answer .mc-title", has_text="Ring form" if example else files[1].name).wait_for(
        timeout=60_000
    )
    page.wait_for_timeout(2000)
    assert page.locator("#answer .mc-title").is_visible()
    assert page.locator("#totals").inner_text() == ""


def test_an_operating_point_that_is_chosen_while_cells_are_judged_counts_for_them(visit, files, tmp_path):
    page = visit(viewport=DESK)
    page.get_by_role("button", name="Settings").click()
    begin_judging_many(page, files, tmp_path)
    page.locator("#operating-point input").last.check()
    page.locator("#totals .mc-download").wait_for(timeout=60_000)
    page.wait_for_timeout(2000)
    csv_ = page.locator("#totals .mc-download").get_attribute("href").partition(",")[2]
    rows_ = csv.DictReader(io.StringIO(base64.b64decode(csv_).decode()))
    assert {row["operating_point"] for row in rows_} == {"99 % specificity"}


@BOTH
def test_the_page_says_how_programs_ask_and_keeps_its_cells(visit, files, size):
    page = visit(viewport=size)
    upload(page, files[0])
    page.get_by_text("For programs").click()
    page.get_by_text("curl --data-binary @cells.zip ADDRESS/classify_batch").wait_for()
    assert page.locator("#answer .mc-headline").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


def test_forced_colours_leave_the_scale_its_marks_the_map_its_key_and_buttons_a_frame(visit, mapped):
    page = visit(mapped.url, forced_colors="active", color_scheme="dark")
    page.click("#example-1")
    page.wait_for_selector("#answer .mc-map")

    def seen(selector: str, name: str) -> str:
        return page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{name}")

    canvas = seen("body", "backgroundColor")
    assert seen(".mc-key-orange", "backgroundColor") == "rgb(255, 120, 0)"
    assert seen(".mc-needle", "borderLeftColor") == "rgba(0, 0, 0, 0)"
    for selector, name in ((".mc-needle", "borderTopColor"), (".mc-divide", "backgroundColor")):
        assert seen(selector, name) not in (canvas, "rgba(0, 0, 0, 0)")
    assert seen("#upload", "borderTopWidth") == "1px"


def test_dark_mode_is_dark(visit):
    page = visit(color_scheme="dark")
    page.wait_for_selector("body.dark")
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in shade.strip("rgba()").split(",")[:3]) < 60
