"""The audit: images that it accepts or sets aside, errors that stop it, its figures and its page."""

import functools
import hashlib
import json
import re
import zipfile
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from malaria import params, processes, tables
from malaria.cells import audit, audit_page, images, names, pack, packed, patients
from malaria.cells import provenance as records
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.paths import PARAMS
from stages import audit as stage
from tests.cells.test_images import blank_png, deep_png, encoded, noise
from tests.support.permissions import bound_by_permissions

SETTINGS = params.Audit(max_quarantined=0.5, min_side=16, max_pixels=4_000_000)
NOT_RECORDED = Provenance()
NIH = "C33P1thinF_IMG_20150619_114756a_cell_{}.png"
CONTROL = "C1_thinF_IMG_20150604_104722_cell_{}.png"


def cell(number: int) -> bytes:
    """A PNG of random pixels, different for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (30 + number % 5, 40, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


@pytest.fixture
def raw(tmp_path):
    """Ten cells of one infected patient, under both labels, and four of a control."""
    folder = tmp_path / "data" / "raw"
    for number in range(14):
        label = "Parasitized" if number < 5 else "Uninfected"
        name = (CONTROL if number > 9 else NIH).format(number)
        put(folder, f"{label}/{name}", cell(number))
    return folder


def put(raw, path, content):
    file = raw / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def row(cells, path):
    return cells.set_index("path").loc[path]


def summarised(raw, cells):
    return audit.summarise(cells, patients.read_slides(raw))


def page(raw, provenance=NOT_RECORDED, cells=None):
    cells = audit.audit(raw, SETTINGS) if cells is None else cells
    return audit_page.render(raw, cells, summarised(raw, cells), provenance, SETTINGS.max_pixels)


# Accepted images


def test_a_cell_is_told_whole(raw):
    told = row(audit.audit(raw, SETTINGS), f"Parasitized/{NIH.format(3)}")
    assert told.to_dict() == {
        "label": "Parasitized",
        "patient": "P1",
        "slide": "C33P1thinF",
        "width": 40,
        "height": 33,
        "pages": 1,
        "bits": 0,
        "sha256": hashlib.sha256(cell(3)).hexdigest(),
        "status": "ok",
        "reason": "",
    }


def test_the_rows_are_sorted_by_path_and_read_back_as_written(raw, tmp_path):
    cells = audit.audit(raw, SETTINGS)
    assert cells.path.is_monotonic_increasing
    tables.write(cells, tmp_path / "cells.csv", tables.CELLS)
    pd.testing.assert_frame_equal(tables.read(tmp_path / "cells.csv", tables.CELLS), cells)


def test_the_rows_do_not_depend_on_the_number_of_processes(raw, monkeypatch):
    put(raw, "Uninfected/cut.png", cell(1)[:-50])
    one = audit.audit(raw, SETTINGS)
    monkeypatch.setattr(processes, "map_in_order", functools.partial(processes.map_in_order, processes=2))
    pd.testing.assert_frame_equal(one, audit.audit(raw, SETTINGS))


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 150)),
        encoded(noise().quantize(16)),
        encoded(noise().convert("L")),
        encoded(noise().convert("RGBA")),
        encoded(noise().convert("CMYK"), "JPEG"),
    ],
    ids=["16-bit", "palette", "greyscale", "alpha", "cmyk"],
)
def test_other_kinds_of_pixels_are_accepted(raw, content):
    put(raw, "Uninfected/other.png", content)
    assert row(audit.audit(raw, SETTINGS), "Uninfected/other.png").status == tables.OK


def test_nested_folders_are_looked_into_and_other_folders_are_not(raw):
    put(raw, "Uninfected/slide 7/cell.png", cell(50))
    put(raw, "Unsure/cell.png", cell(51))
    paths = set(audit.audit(raw, SETTINGS).path)
    assert "Uninfected/slide 7/cell.png" in paths
    assert "Unsure/cell.png" not in paths


def test_a_set_of_sixteen_bits_is_read_by_the_range_that_it_uses(raw, tmp_path):
    eight = [np.asarray(noise()), np.asarray(noise()) // 40]
    for number, pixels in enumerate(eight):
        put(raw, f"Uninfected/deep{number}.png", deep_png(pixels.astype(np.uint16) << 4))
    cells = audit.audit(raw, SETTINGS)
    assert [row(cells, f"Uninfected/deep{number}.png").bits for number in (0, 1)] == [12, 8]
    *_, note = audit.notes(raw, cells, NOT_RECORDED, summarised(raw, cells))
    assert note.startswith("Files of 16 bits a colour: 2")
    assert "They use 12 bits at most" in note
    pack.write(raw, cells, 40, "as-is", tmp_path / "packed")
    written = packed.load(tmp_path / "packed")
    for number, pixels in enumerate(eight):
        at = written.index.path.tolist().index(f"Uninfected/deep{number}.png")
        np.testing.assert_array_equal(written.images[at], images.resize(pixels, 40))


def test_of_several_pages_the_audit_says_which_was_read(raw):
    put(raw, "Uninfected/pages.tif", encoded(noise(), "TIFF", save_all=True, append_images=[noise()] * 4))
    cells = audit.audit(raw, SETTINGS)
    assert row(cells, "Uninfected/pages.tif").pages == 5
    *_, note = audit.notes(raw, cells, NOT_RECORDED, summarised(raw, cells))
    assert note.endswith("1 (such as Uninfected/pages.tif: page 1 of 5).")


def test_real_cells_of_eight_bits_in_sixteen_are_read_as_their_eight(shared_cases, tmp_path):
    with zipfile.ZipFile(shared_cases / "layouts/low8_in_16bit_tiff.zip") as packs:
        name = next(name for name in packs.namelist() if name.endswith((".tif", ".tiff")))
        put(tmp_path, "Uninfected/cell.tif", packs.read(name))
    finding = images.examine(tmp_path, images.Limits(16, 4_000_000), "Uninfected/cell.tif")
    assert (finding.reason, finding.bits) == ("", 8)
    assert images.read(tmp_path / "Uninfected/cell.tif", images.Limits(16, 4_000_000)).pixels.max() > 128


# Images that are set aside


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (cell(20)[:-100], "damaged or cut short"),
        (b"Dear colleague", images.NO_IMAGE),
        (b"", "empty file"),
        (encoded(Image.new("RGB", (1, 1))), "a side under 16 px"),
        (blank_png(12_000, 12_000), "larger than 4,000,000 pixels"),
        (encoded(Image.new("RGB", (40, 40), "violet")), "one colour throughout"),
    ],
    ids=["truncated", "text", "empty", "1x1", "bomb", "no content"],
)
def test_what_is_no_cell_is_quarantined_counted_and_shown(raw, content, reason):
    put(raw, "Uninfected/odd.png", content)
    cells = audit.audit(raw, SETTINGS)
    assert tuple(row(cells, "Uninfected/odd.png")[["status", "reason"]]) == ("quarantined", reason)
    assert audit.summarise(cells).reasons == {reason: 1}
    assert re.search(rf"<code>Uninfected/odd.png</code>.*?<td>{re.escape(reason)}</td>", page(raw), re.DOTALL)


def test_of_copies_under_one_label_the_first_by_path_stays(raw):
    for name in ("a", "b", "c"):
        put(raw, f"Uninfected/{name}.png", cell(30))
    cells = audit.audit(raw, SETTINGS)
    reasons = [row(cells, f"Uninfected/{name}.png").reason for name in ("a", "b", "c")]
    assert reasons == ["", "duplicate: of Uninfected/a.png", "duplicate: of Uninfected/a.png"]
    assert audit.summarise(cells).reasons == {"duplicate": 2}


def test_of_an_image_under_both_labels_no_copy_stays(raw):
    for path in ("Parasitized/a.png", "Uninfected/b.png", "Uninfected/c.png"):
        put(raw, path, cell(30))
    cells = audit.audit(raw, SETTINGS)
    assert row(cells, "Parasitized/a.png").reason == "under both labels: also Uninfected/b.png"
    assert row(cells, "Uninfected/c.png").reason == "under both labels: also Parasitized/a.png"
    assert audit.summarise(cells).reasons == {"under both labels": 3}


def test_broken_copies_are_broken_and_no_duplicates(raw):
    for name in ("a", "b"):
        put(raw, f"Uninfected/{name}.png", b"Dear colleague")
    assert audit.summarise(audit.audit(raw, SETTINGS)).reasons == {images.NO_IMAGE: 2}


@pytest.mark.parametrize(("name", "shown"), [("a\nb.png", r"a\nb.png"), ("a\udcffb.png", r"a\udcffb.png")])
def test_a_file_name_that_cannot_be_printed_is_quarantined(raw, tmp_path, name, shown):
    put(raw, f"Uninfected/{name}", cell(30))
    put(raw, "Uninfected/a00.png", cell(31))
    cells = audit.audit(raw, SETTINGS)
    assert row(cells, f"Uninfected/{shown}").reason == audit.UNPRINTABLE
    assert cells.path.is_monotonic_increasing
    tables.write(cells, tmp_path / "cells.csv", tables.CELLS)
    assert shown in page(raw, cells=cells)


# Patients


def test_a_name_that_tells_no_patient_is_accepted_and_the_page_says_what_follows(raw):
    put(raw, "Uninfected/my cell.png", cell(30))
    told = row(audit.audit(raw, SETTINGS), "Uninfected/my cell.png")
    assert tuple(told[["status", "patient", "slide"]]) == ("ok", "", "")
    assert "Cells whose patient is unknown: 1." in page(raw)
    assert "a split of them is not by patient" in page(raw)


def test_patients_csv_is_believed_over_the_name_and_the_page_says_so(raw):
    put(raw, "patients.csv", f"file,patient\nParasitized/{NIH.format(0)},Ada\n".encode())
    assert row(audit.audit(raw, SETTINGS), f"Parasitized/{NIH.format(0)}").patient == "Ada"
    assert "gives another patient than their names do: 1 (" in page(raw)


def test_a_spreadsheets_byte_order_mark_does_no_harm(raw):
    put(raw, "patients.csv", b"\xef\xbb\xbffile,patient\nmine.png,NA\n")
    assert patients.read(raw) == {"mine.png": "NA"}


@pytest.mark.parametrize(
    "content",
    [b"file;patient\nmine.png;Ada\n", b"file\tpatient\nmine.png\tAda\n", b"File, Patient\nmine.png,Ada\n"],
)
def test_a_patients_csv_has_the_separators_and_capitals_that_its_owner_writes(raw, content):
    put(raw, "patients.csv", content)
    assert patients.read(raw) == {"mine.png": "Ada"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"File,file,patient\na,b,c\n", "it has a column twice"),
        (b"name,patient\na,b\n", "has the columns name, patient, but needs file,patient"),
        (b"", "is no CSV table"),
        (b"\xff\xfe\x00", "is not UTF-8: save it as such"),
        (b"file,patient\na.png,Ada\na.png,Ben\n", r"gives a\.png to two patients"),
        (
            b"file,patient\na.png,Ada,\nb.png,Ada,\n",
            "has rows with more values than columns",
        ),
        (b"file,patient\na.png,Ada\nb.png,Ada,\n", "is no CSV table"),
    ],
)
def test_a_patients_csv_that_is_none_stops_the_audit(raw, content, message):
    put(raw, "patients.csv", content)
    with pytest.raises(UserError, match=message):
        audit.audit(raw, SETTINGS)


def test_a_patients_csv_may_be_empty_but_for_its_header(raw):
    put(raw, "patients.csv", b"file,patient\n")
    assert patients.read(raw) == {}


def test_a_parasitised_cell_named_as_a_controls_is_noted(raw):
    put(raw, f"Parasitized/{CONTROL.format(99)}", cell(30))
    assert "Parasitised cells with the name of an uninfected control: 1 (" in page(raw)


# Errors that stop the audit


def test_without_any_image_the_audit_stops(tmp_path):
    (tmp_path / "Parasitized" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no cell: check data\.folder"):
        audit.audit(tmp_path, SETTINGS)


@pytest.mark.parametrize("folders", [(), ("Parasitized/inner",)], ids=["missing", "empty"])
def test_a_class_without_an_image_stops_the_pipeline(tmp_path, folders):
    put(tmp_path, "Uninfected/a.png", cell(1))
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    cells = audit.audit(tmp_path, SETTINGS)
    with pytest.raises(UserError, match=r"holds no Parasitized image that can be used \(none is there\)"):
        audit.check(cells, SETTINGS)


def test_a_folder_that_cannot_be_listed_is_no_folder_without_cells(raw, tmp_path, monkeypatch):
    put(raw, "Parasitized/ring/1.png", cell(20))
    tmp_path.chmod(0o755)
    monkeypatch.chdir(raw)
    closed = Path("Parasitized/ring")
    closed.chmod(0)
    with bound_by_permissions(), pytest.raises(UserError, match=r"ring cannot be read \(Permission denied\)"):
        audit.audit(Path(), SETTINGS)
    closed.chmod(0o755)


def test_a_class_without_a_readable_image_stops_the_pipeline(tmp_path):
    put(tmp_path, "Uninfected/a.png", cell(1))
    put(tmp_path, "Parasitized/a.png", b"Dear colleague")
    cells = audit.audit(tmp_path, SETTINGS)
    with pytest.raises(
        UserError, match=r"data/raw holds no Parasitized image that can be used \(no PNG.*: 1\)"
    ):
        audit.check(cells, SETTINGS)


def test_too_much_set_aside_stops_the_pipeline_and_says_what_and_where(raw):
    for number in range(2):
        put(raw, f"Uninfected/{number}.png", b"Dear colleague")
    put(raw, "Uninfected/3.png", b"")
    cells = audit.audit(raw, SETTINGS)
    strict = SETTINGS.model_copy(update={"max_quarantined": 0.1})
    message = (
        r"3 of 17 images \(17.6%\).*10.0% of audit.max_quarantined \(no PNG.*: 2, empty file: 1; one is "
    )
    with pytest.raises(UserError, match=message + r"Uninfected/0\.png\): look at reports/audit\.html"):
        audit.check(cells, strict)


def test_the_share_set_aside_may_reach_the_limit(raw):
    put(raw, "Uninfected/odd.png", b"")
    cells = audit.audit(raw, SETTINGS)
    audit.check(cells, SETTINGS.model_copy(update={"max_quarantined": 1 / 15}))
    audit.check(cells, SETTINGS)


# The summary


def test_the_summary_counts_cells_patients_and_sizes(raw):
    put(raw, "Uninfected/my cell.png", cell(30))
    summary = audit.summarise(audit.audit(raw, SETTINGS))
    assert (summary.images, summary.accepted, summary.quarantined) == (15, 15, 0)
    assert summary.cells == {"Parasitized": 5, "Uninfected": 10}
    assert summary.patients == {"infected": 1, "controls": 1}
    assert summary.cells_without_patient == 1
    assert summary.side_px == {"smallest": 40, "median": 40.0, "largest": 40}


def test_the_share_of_the_ten_patients_with_most_parasitised_cells():
    # Twelve patients with 12, 11, ... 1 parasitised cells, and twenty cells of unknown patients.
    patient = [f"P{number}" for number in range(12) for _ in range(12 - number)] + [""] * 20
    cells = pd.DataFrame(
        {"path": [f"{n}" for n in range(98)], "label": "Parasitized", "patient": patient, "status": tables.OK}
    ).assign(width=50, height=60, reason="")
    healthy = cells[:20].assign(label="Uninfected")
    found = audit.summarise(pd.concat([cells, healthy], ignore_index=True))
    # 75 of 98 cells.
    assert found.top_ten_share_of_parasitized == 0.7653


@pytest.mark.parametrize(("labels", "share"), [(["Parasitized"], 1.0), (["Uninfected"], 0.0)])
def test_the_share_of_the_top_ten_is_1_for_one_parasitised_cell_and_0_for_none(labels, share):
    cells = pd.DataFrame({"path": ["a"], "label": labels, "patient": "P1", "status": tables.OK})
    found = audit.summarise(cells.assign(width=50, height=60, reason=""))
    assert found.top_ten_share_of_parasitized == share


@pytest.mark.parametrize(("count", "share"), [(1, 1.0), (0, 0.0)])
def test_the_share_set_aside_is_1_for_one_bad_image_and_0_for_no_image(count, share):
    cells = pd.DataFrame({"path": ["a"], "label": "Uninfected", "patient": "", "status": tables.QUARANTINED})
    found = audit.summarise(cells.assign(width=0, height=0, reason="empty file")[:count])
    assert (found.quarantined, found.quarantined_share, found.side_px) == (count, share, {})
    assert found.slides == {}


def test_sides_are_the_longer_ones_and_the_share_set_aside_has_four_places():
    cells = pd.DataFrame({"path": list("abcdefg"), "label": "Uninfected", "patient": "P1"}).assign(
        width=[50, 30, 40, 90, 90, 90, 90],
        height=[60, 70, 20, 90, 90, 90, 90],
        status=[tables.OK] * 3 + [tables.QUARANTINED] * 4,
        reason=[""] * 3 + ["empty file"] * 4,
    )
    found = audit.summarise(cells)
    assert found.side_px == {"smallest": 40, "median": 60.0, "largest": 70}
    assert found.quarantined_share == 0.5714


def test_provenance_is_read_as_written_and_is_empty_where_there_is_none(tmp_path):
    assert records.read(tmp_path) == Provenance()
    (tmp_path / "provenance.json").write_text('["no", "record"]')
    assert records.read(tmp_path) == Provenance()
    written = Provenance("sample", "synthetic sample, seed 1", cells=3, ignored=("a folder",))
    (tmp_path / "provenance.json").write_text(json.dumps(asdict(written)))
    assert records.read(tmp_path) == written


# The publisher's slides


def write_slides(raw, rows):
    tables.write(pd.DataFrame(rows, columns=list(tables.SLIDES)), raw / "slides.csv", tables.SLIDES)


def published(raw, **changed):
    """Write and read slides.csv, with slide and patient from the file names.

    Args:
        changed: `n<cell number>=(slide, patient)` for the cells that get other values.
    """
    rows = []
    for path in sorted(raw.glob("*/*.png")):
        known = names.parse(path.name)
        slide, patient = changed.get("n" + path.stem.rpartition("_")[2], (known.slide, known.patient))
        rows.append((path.relative_to(raw).as_posix(), slide, patient))
    write_slides(raw, rows)
    return patients.read_slides(raw)


def test_slides_that_agree_with_the_names_are_counted_and_raise_no_note(raw):
    told = published(raw)
    cells = audit.audit(raw, SETTINGS)
    assert audit.summarise(cells, told).slides == {
        "told": 14, "missing": 0, "disagreeing": 0, "examples": []
    }  # fmt: skip
    assert audit.notes(raw, cells, NOT_RECORDED, summarised(raw, cells)) == ()
    assert "gives the slide of 14 images; it disagrees with the names of 0" in page(raw)


def test_slides_that_disagree_with_the_names_are_believed_counted_and_shown(raw):
    told = published(raw, n3=("C40P9thinF", "P9"), n12=("C1_thinF_2", "C1"))
    cells = audit.audit(raw, SETTINGS)
    path = f"Parasitized/{NIH.format(3)}"
    assert tuple(row(cells, path)[["slide", "patient"]]) == ("C40P9thinF", "P9")
    summary = audit.summarise(cells, told)
    example = f"{path}: slides.csv says slide C40P9thinF of P9, the name C33P1thinF of P1"
    assert summary.slides["disagreeing"] == 2
    assert summary.slides["examples"][0] == example
    (note,) = audit.notes(raw, cells, NOT_RECORDED, summarised(raw, cells))
    assert note.startswith("Cells that slides.csv puts on another slide than their names do: 2")
    assert example in page(raw)


def test_a_name_that_tells_nothing_gets_its_slide_from_the_table(raw):
    put(raw, "Uninfected/odd.png", cell(30))
    write_slides(raw, [("Uninfected/odd.png", "C7NthinF", "C7")])
    cells = audit.audit(raw, SETTINGS)
    assert tuple(row(cells, "Uninfected/odd.png")[["slide", "patient"]]) == ("C7NthinF", "C7")
    summary = summarised(raw, cells)
    assert (summary.slides["disagreeing"], summary.slides["missing"]) == (1, 14)
    notes = audit.notes(raw, cells, NOT_RECORDED, summary)
    assert "Images that slides.csv does not know: 14." in " ".join(notes)


def test_ones_own_patients_stand_above_the_publishers(raw):
    published(raw)
    put(raw, "patients.csv", f"file,patient\nParasitized/{NIH.format(3)},anna\n".encode())
    assert row(audit.audit(raw, SETTINGS), f"Parasitized/{NIH.format(3)}").patient == "anna"


# The page


class Elements(HTMLParser):
    """Collects every element of a page in `found`, as (tag, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_hostile_file_name_stays_a_text(raw):
    name = 'x"><script>alert(1)</script><img src=x onerror=alert(1)>.png'.replace("/", "")
    put(raw, f"Uninfected/{name}", cell(30))
    put(raw, f"Uninfected/2{name}", b"")
    put(raw, "patients.csv", b"file,patient\n<script>.png,<script>\n")
    elements = Elements(page(raw)).found
    assert "script" not in {tag for tag, _ in elements}
    assert not [attributes for _, attributes in elements if "onerror" in attributes]


def test_the_page_needs_nothing_from_outside(raw):
    put(raw, "Uninfected/odd.png", b"")
    elements = Elements(page(raw, Provenance(origin="https://example.org/cells.zip"))).found
    assert {tag for tag, _ in elements}.isdisjoint({"script", "link", "iframe", "object"})
    sources = [attributes["src"] for _, attributes in elements if "src" in attributes]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_every_picture_has_a_text_and_its_own_proportions(raw):
    pictures = [attributes for tag, attributes in Elements(page(raw)).found if tag == "img"]
    assert len(pictures) == 14
    for picture in pictures:
        width, height = map(int, re.search(r"(\d+) by (\d+) px", picture["alt"]).groups())
        assert int(picture["width"]) / int(picture["height"]) == pytest.approx(width / height, rel=0.03)


def test_the_same_cells_make_the_same_page(raw):
    put(raw, "Uninfected/odd.png", b"")
    assert page(raw) == page(raw)


def test_a_synthetic_sample_is_called_one_and_real_cells_are_not(raw):
    assert "<strong>Synthetic sample.</strong>" in page(raw, Provenance(source="sample"))
    assert "ynthetic" not in page(raw, Provenance(source="folder"))


def test_the_page_tells_licence_and_what_fetch_left_out(raw):
    text = page(raw, Provenance("folder", licence="CC0 & more", ignored=("a second copy",)))
    assert "CC0 &amp; more" in text
    assert "Left out when the cells were fetched: a second copy." in text


def test_a_page_without_any_accepted_cell_is_still_a_page(tmp_path):
    put(tmp_path, "Uninfected/a.png", b"Dear colleague")
    put(tmp_path, "Parasitized/a.png", b"")
    assert "No cell was accepted." in page(tmp_path)


def test_what_is_left_out_of_a_long_list_is_counted(raw, monkeypatch):
    monkeypatch.setattr(audit_page, "MAX_ROWS", 3)
    for number in range(5):
        put(raw, f"Uninfected/{number}.png", b"")
    text = page(raw)
    assert text.count('<span class="none">') == 3
    assert "And 2 more: all of them are in <code>data/cells.csv</code>" in text


# The stage


def test_a_stage_that_stops_leaves_the_page_that_it_sends_people_to(raw, monkeypatch):
    root = raw.parent.parent
    (root / PARAMS).write_text(PARAMS.read_text())
    monkeypatch.chdir(root)
    put(raw, "Uninfected/odd.png", b"Dear colleague")
    with pytest.raises(UserError, match=r"look at reports/audit\.html"):
        stage.main()
    assert "Uninfected/odd.png" in (root / "reports/audit.html").read_text()
    assert json.loads((root / "reports/audit.json").read_text())["quarantined"] == 1
