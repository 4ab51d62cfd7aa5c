"""Source `nlm`: the publisher's set, fetched from a local server, checked, unpacked, with its slides."""

import csv
import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from benchmarks import fake_archive
from malaria import params
from malaria.cells import names, patients
from malaria.errors import UserError
from malaria.fetch import download, folder, nih, nlm, sources
from malaria.labels import LABELS, PARASITIZED, UNINFECTED
from tests.support.servers import serving

ROOT = Path(__file__).parents[2]
CENSUS = nih.Census(cells=12, infected=3, controls=2)


@pytest.fixture(autouse=True)
def one_retry(monkeypatch):
    monkeypatch.setattr(download, "RETRY", download.RETRY.new(total=1, backoff_factor=0))


@pytest.fixture
def archive(tmp_path) -> Path:
    fake_archive.write_archive(tmp_path / "cell_images.zip", CENSUS)
    return tmp_path / "cell_images.zip"


@pytest.fixture
def published() -> dict[str, bytes]:
    return fake_archive.published(CENSUS)


@pytest.fixture
def server(published):
    with serving(**published) as running:
        yield running


@pytest.fixture
def data(data, server, published) -> params.Data:
    """Parameters of source `nlm` with the addresses and hashes of the local server's files."""
    asked = params.NlmData(**fake_archive.nlm_section(server.base, published))
    return data.model_copy(update={"source": "nlm", "nlm": asked})


def hashes(raw: Path) -> dict[str, str]:
    return {
        path.relative_to(raw).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in raw.rglob("*")
        if path.is_file()
    }


def test_the_shipped_parameters_name_the_published_files():
    shipped = params.load_params(ROOT / "params.yaml").data.nlm
    assert shipped.url == "https://data.lhncbc.nlm.nih.gov/public/Malaria"
    assert shipped.size == 353_452_851
    assert shipped.sha256 == "0a949556b2414159b5100192609805376654c4266d8d187be9b1922fad43c668"


def test_the_set_comes_whole_with_slides_and_its_litter_left_out(data, tmp_path):
    raw = tmp_path / "raw"
    provenance = nlm.fetch(data, raw, tmp_path / "cache", CENSUS)
    expected = {
        f"{cell.label}/{cell.name}": fake_archive.placeholder(cell) for cell in fake_archive.cells(CENSUS)
    }
    found = {name: sha256 for name, sha256 in hashes(raw).items() if name != "slides.csv"}
    assert found == {name: hashlib.sha256(content).hexdigest() for name, content in expected.items()}
    assert provenance.cells == 24
    assert provenance.ignored == ("2 files that file browsers leave behind",)
    with (raw / "slides.csv").open() as table:
        rows = {row["path"]: row for row in csv.DictReader(table)}
    assert set(rows) == set(expected)
    for path, row in rows.items():
        parsed = names.parse(path.rpartition("/")[2])
        assert (row["slide"], row["patient"]) == (parsed.slide, parsed.patient)


def test_the_cells_have_the_checksum_that_source_folder_gives_them(data, archive, tmp_path):
    fetched = nlm.fetch(data, tmp_path / "raw", tmp_path / "cache", CENSUS)
    own = data.model_copy(update={"folder": str(archive)})
    (tmp_path / "own").mkdir()
    assert folder.fetch(own, tmp_path / "own").checksum == fetched.checksum


def test_a_second_fetch_asks_for_nothing_and_gives_the_same_bytes(data, server, tmp_path):
    first = nlm.fetch(data, tmp_path / "a", tmp_path / "cache", CENSUS)
    asked = len(server.asked)
    second = nlm.fetch(data, tmp_path / "b", tmp_path / "cache", CENSUS)
    assert len(server.asked) == asked == 3
    assert first == second
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_the_place_of_the_cache_changes_nothing(data, tmp_path):
    fetched = [nlm.fetch(data, tmp_path / name, tmp_path / f"cache-{name}", CENSUS) for name in ("a", "b")]
    assert fetched[0] == fetched[1]
    assert str(tmp_path) not in json.dumps(fetched[0].ignored) + fetched[0].origin + fetched[0].version


def test_a_changed_mapping_file_is_refused(data, server, tmp_path):
    server.files["/patientid_cellmapping_uninfected.csv"] += b"more"
    with pytest.raises(UserError, match=r"data.nlm.uninfected_sha256 expects"):
        nlm.fetch(data, tmp_path / "raw", tmp_path / "cache", CENSUS)


@pytest.mark.parametrize(
    ("census", "sentence"),
    [
        (nih.Census(13, 3, 2), r"12 parasitised cells \(must be 13\) and 12 uninfected cells \(must be 13\)"),
        (nih.Census(12, 4, 2), r"it holds 3 infected patients \(must be 4\): check"),
        (nih.Census(12, 3, 1), r"it holds 2 controls \(must be 1\): check"),
        (nih.WHOLE, r"12 parasitised cells \(must be 13,779\)"),
    ],
)
def test_a_count_that_differs_is_named(archive, tmp_path, census, sentence):
    with pytest.raises(UserError, match=sentence):
        nih.unpack(archive, tmp_path / "raw", census)


def test_a_name_that_tells_no_patient_is_named(archive, tmp_path):
    with zipfile.ZipFile(archive, "a") as pack:
        pack.writestr("cell_images/Parasitized/holiday.png", b"sea")
    with pytest.raises(
        UserError, match=r"1 cells whose name tells no patient .*Parasitized/holiday.png among them"
    ):
        nih.unpack(archive, tmp_path / "raw", CENSUS)


def test_a_damaged_archive_is_said_to_be_damaged(archive, tmp_path):
    spoilt = bytearray(archive.read_bytes())
    spoilt[200:220] = bytes(20)
    archive.write_bytes(spoilt)
    with pytest.raises(UserError, match="is damaged or encrypted"):
        nih.unpack(archive, tmp_path / "raw", CENSUS)


def test_a_failed_fetch_leaves_the_old_cells(data, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/old").write_text("old")
    with pytest.raises(UserError, match=r"must be 13,779"):
        sources.write(data, tmp_path / "raw", tmp_path / "cache")
    assert [path.name for path in tmp_path.glob("*raw*")] == ["raw"]
    assert (tmp_path / "raw/old").read_text() == "old"


def test_what_killed_runs_left_is_removed_by_the_next(data, tmp_path):
    (tmp_path / ".raw.abc.999999999.part" / "Parasitized").mkdir(parents=True)
    (tmp_path / ".raw.abc.1.part").mkdir()
    with pytest.raises(UserError, match=r"must be 13,779"):
        sources.write(data, tmp_path / "raw", tmp_path / "cache")
    assert [path.name for path in tmp_path.glob(".raw*")] == [".raw.abc.1.part"]


@pytest.mark.parametrize(
    "line",
    [
        "C1P1thinF,['a.png'",
        "C1P1thinF,a.png",
        "x,['a.png'],,",
        "C1P1thinF,[3],",
        "C1P1thinF,['../a.png'],",
        "C1P1thinF,__import__('os').getcwd(),",
        "",
    ],
)
def test_a_row_that_is_no_mapping_is_named(tmp_path, line):
    file = tmp_path / "mapping.csv"
    file.write_text(f"C33P1thinF,['a.png', 'b.png'],,,,\n{line}\n")
    with pytest.raises(UserError, match=r"mapping.csv, row 2: no slide key with a list"):
        nlm.read_mapping(file, PARASITIZED)


@pytest.mark.parametrize(
    ("key", "patient"),
    [("C33P1thinF", "P1"), ("C37BP2_thinF", "P2"), ("C12NThinF", "C12"), ("C1_thinF", "C1")],
)
def test_the_slides_key_tells_the_patient(tmp_path, key, patient):
    (tmp_path / "mapping.csv").write_text(f"{key},['a.png'],,,,\n")
    assert nlm.read_mapping(tmp_path / "mapping.csv", PARASITIZED) == [("Parasitized/a.png", key, patient)]


@pytest.mark.parametrize(
    "content", ["path,slide\na,b\n", "path,slide,patient\na,b,c,d\ne,f,g,h\n", "", b"\xff\xfe"]
)
def test_another_table_in_place_of_slides_is_refused(tmp_path, content):
    (tmp_path / "slides.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"slides\.csv .*: run `dvc repro`"):
        patients.read_slides(tmp_path)


def test_all_real_names_parse_and_agree_with_the_publishers_mapping(shared_cells):
    rows = [
        row
        for label in LABELS
        for row in nlm.read_mapping(shared_cells / f"patientid_cellmapping_{label.lower()}.csv", label)
    ]
    assert len({path for path, _, _ in rows}) == 27_558
    disagreeing = []
    for path, slide, patient in rows:
        if names.parse(path.rpartition("/")[2]) != names.CellName(patient, slide):
            disagreeing.append(path)
    assert disagreeing == []


def test_the_real_mapping_has_the_counts_that_are_checked(shared_cells):
    for label in LABELS:
        file = shared_cells / f"patientid_cellmapping_{label.lower()}.csv"
        assert len(nlm.read_mapping(file, label)) == nih.WHOLE.cells
    mapping = shared_cells / "patientid_cellmapping_uninfected.csv"
    people = {patient for _, _, patient in nlm.read_mapping(mapping, UNINFECTED)}
    assert sum(person.startswith("P") for person in people) == nih.WHOLE.infected
    assert sum(person.startswith("C") for person in people) == nih.WHOLE.controls
