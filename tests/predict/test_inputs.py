"""Bad files and folders among the inputs: each gives a row with the reason, and the others are judged."""

import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from malaria import bundle, predict
from malaria.cells import images
from malaria.errors import UserError
from malaria.predict import batch, inputs
from tests.support.permissions import bound_by_permissions


@pytest.mark.parametrize("path", ["gs://bucket/cells", "azure://cells"])
def test_a_store_of_another_kind_is_said_not_to_be_read(path):
    with pytest.raises(UserError, match=f"{path} is in an unsupported store"):
        list(inputs.listed([path]))


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


def packed(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip with one member."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as pack:
        pack.writestr(name, content)
    return stream.getvalue()


def with_field(content: bytes, offset: int, value: bytes) -> bytes:
    """`content` with a field of the first member's entry in the central directory changed."""
    at = content.index(CENTRAL) + offset
    return content[:at] + value + content[at + len(value) :]


def broken_deflate(_: bytes) -> bytes:
    content = packed("a.png", bytes(1000))
    start = 30 + len("a.png")
    return content[:start] + b"\xff" * 4 + content[start + 4 :]


def name_that_is_no_utf8(png: bytes) -> bytes:
    content = packed("ü.png", png)
    return content.replace("ü".encode(), b"\xff\xff")


def of_several_disks(png: bytes) -> bytes:
    content = packed("a.png", png)
    end = content.index(b"PK\5\6")
    return content[:end] + struct.pack("<4sLQL", b"PK\6\7", 0, end, 2) + content[end:]


def of_negative_offset(png: bytes) -> bytes:
    """A zip in a zip that records its directory's offset 9 bytes too large."""
    inner = packed("a.png", png)
    at = inner.index(b"PK\5\6") + 16
    directory = int.from_bytes(inner[at : at + 4], "little")
    return packed("in.zip", inner[:at] + (directory + 9).to_bytes(4, "little") + inner[at + 4 :])


BAD: dict[str, Callable[[bytes], bytes]] = {
    "broken deflate data": broken_deflate,
    "a name that is no UTF-8": name_that_is_no_utf8,
    "extract version 9.9": lambda png: with_field(packed("a.png", png), 6, b"\x63\0"),
    "several disks": of_several_disks,
    "a name that starts with NUL": lambda png: packed("~.png", png).replace(b"~", b"\0"),
    "an offset before the start": of_negative_offset,
    "bzip2": lambda png: packed("a.png", png, zipfile.ZIP_BZIP2),
    "LZMA": lambda png: packed("a.png", png, zipfile.ZIP_LZMA),
    "encrypted": lambda png: with_field(packed("a.png", png), 8, b"\1\0"),
}


@pytest.fixture(params=BAD)
def folder(request, tmp_path, pngs) -> Path:
    """A folder with a bad zip between two cells."""
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/a.png").write_bytes(pngs[0])
    (tmp_path / "cells/b.zip").write_bytes(BAD[request.param](pngs[1]))
    (tmp_path / "cells/c.png").write_bytes(pngs[2])
    return tmp_path / "cells"


def test_a_bad_zip_is_a_row_and_stops_nothing(folder, model_bundle):
    one, bad, other = predict.predict(bundle.load(model_bundle), inputs.find([str(folder)]))
    assert (one.status, bad.status, other.status) == ("ok", "unreadable", "ok")
    assert bad.path.startswith(f"{folder}/b.zip")
    assert any(word in bad.reason for word in ("damaged", "cannot be unpacked"))


def test_a_bad_zip_gives_the_same_row_in_a_shard(folder, model_bundle):
    whole = io.StringIO()
    predict.write(predict.predict(bundle.load(model_bundle), inputs.find([str(folder)])), whole)
    content = {file.name: file.read_bytes() for file in model_bundle.iterdir()}
    partition = batch.Partition("", tuple(inputs.listed([str(folder)])))
    judged = batch.judge(partition, batch.Job(batch.__version__, content, Path(), 0.5))
    again = io.StringIO()
    predict.write(judged.rows, again)
    assert again.getvalue() == whole.getvalue()


def test_litter_is_no_image_here_or_in_a_zip_and_a_file_that_is_in_icloud_alone_has_a_row(tmp_path, pngs):
    inside = ("a.png", ".thumbnails/a.png", "@eaDir/a.png/thumb.jpg", ".b.png.icloud")
    for name in inside:
        (tmp_path / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cells" / name).write_bytes(pngs[0])
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as pack:
        for name in inside:
            pack.write(tmp_path / "cells" / name, name)
    for given in ("cells", "cells.zip"):
        items = inputs.find([str(tmp_path / given)])
        assert [Path(item.path).name for item in items] == [".b.png.icloud", "a.png"]


@pytest.mark.parametrize("name", ["cells.tar.gz", "cells.7z", "CELLS.ZIP"])
def test_an_archive_that_is_no_zip_is_told_to_be_unpacked_however_large(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    os.truncate(tmp_path / name, 2**27)
    (tmp_path / "lost.zip").symlink_to("nothing")
    archive, lost = inputs.find([str(tmp_path)])
    with pytest.raises(images.Unreadable, match="an archive that is no zip, or damaged: unpack it"):
        archive.read()
    with pytest.raises(FileNotFoundError):
        lost.read()


def test_a_member_that_holds_more_than_it_says_is_not_unpacked_whole(tmp_path):
    held = packed("a.png", bytes(2**25))
    (tmp_path / "liar.zip").write_bytes(with_field(held, 24, (10).to_bytes(4, "little")))
    tracemalloc.start()
    try:
        (item,) = inputs.find([str(tmp_path)])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with pytest.raises(images.Unreadable, match="cannot be unpacked: Bad CRC-32"):
        item.read()
    assert most < 2**21


@pytest.mark.parametrize(("size", "is_read"), [(2**26, True), (2**26 + 1, False)])
def test_a_file_may_have_64_mib(tmp_path, pngs, size, is_read):
    (tmp_path / "a.png").write_bytes(pngs[0])
    (item,) = inputs.items(inputs.Source("a.png", size, ""), tmp_path)
    if is_read:
        assert item.read() == pngs[0]
        return
    with pytest.raises(images.Unreadable, match="larger than 67,108,864 bytes"):
        item.read()


def test_a_zip_is_opened_in_a_zip_in_a_zip_and_no_deeper(tmp_path, pngs):
    # Packed once, because a zip holds the time of packing.
    one = packed("a.png", pngs[0])
    two = packed("2.zip", one)
    (tmp_path / "three.zip").write_bytes(packed("1.zip", two))
    (tmp_path / "four.zip").write_bytes(packed("0.zip", packed("1.zip", two)))
    four, three = inputs.find([str(tmp_path)])
    assert (three.path, three.read()) == (f"{tmp_path}/three.zip/1.zip/2.zip/a.png", pngs[0])
    assert (four.path, four.read()) == (f"{tmp_path}/four.zip/0.zip/1.zip/2.zip", one)


@pytest.fixture
def locked(tmp_path, pngs, monkeypatch) -> Iterator[Path]:
    """A folder that may not be listed, as a path relative to the current folder; a cell lies beside it."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    folder = Path("cells/locked")
    folder.mkdir(parents=True)
    Path("cells/a.png").write_bytes(pngs[0])
    folder.chmod(0)
    yield folder
    folder.chmod(0o755)


def test_a_link_in_a_circle_is_a_row_and_stops_nothing(tmp_path, pngs, model_bundle):
    (tmp_path / "a.png").write_bytes(pngs[0])
    (tmp_path / "circle").symlink_to("circle")
    one, other = predict.predict(bundle.load(model_bundle), inputs.find([str(tmp_path)]))
    assert (one.status, other.status) == ("ok", "unreadable")
    assert other.reason.startswith("cannot be read: Too many levels of symbolic links")


def test_a_link_to_nothing_or_to_a_folder_is_a_row(tmp_path, model_bundle):
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "up").symlink_to("..")
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes into it, and reading would wait
    rows = list(predict.predict(bundle.load(model_bundle), inputs.find([str(tmp_path)])))
    assert [row.reason for row in rows] == [
        "cannot be read: No such file or directory",
        "cannot be read: Is a directory",
    ]


def test_a_zip_cut_short_and_an_encrypted_one_are_called_so(tmp_path, pngs, model_bundle):
    whole = packed("a.png", pngs[0])
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "secret.zip").write_bytes(with_field(whole, 8, b"\x01\0"))
    cut, secret = predict.predict(bundle.load(model_bundle), inputs.find([str(tmp_path)]))
    assert cut.reason == "damaged zip"
    assert secret.reason == "cannot be unpacked: a.png is encrypted"


def test_a_folder_that_cannot_be_listed_is_a_row_below_and_an_error_where_it_is_named(locked, model_bundle):
    model = bundle.load(model_bundle)
    with bound_by_permissions():
        one, other = predict.predict(model, inputs.find([str(locked.parent)]))
        with pytest.raises(UserError, match=r"cells/locked cannot be read \(Permission denied\): name files"):
            list(inputs.find([str(locked)]))
    assert (one.path, one.status) == ("cells/a.png", "ok")
    assert (other.path, other.status) == ("cells/locked", "unreadable")
    # The reason has no path, which may be another one on a worker.
    assert other.reason == "cannot be read: Permission denied"


def test_a_path_too_long_to_exist_is_refused_in_a_sentence():
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        list(inputs.find(["a" * 300]))


def test_a_device_without_an_end_is_too_large():
    (item,) = inputs.find(["/dev/zero"])
    with pytest.raises(images.Unreadable, match="larger than 67,108,864 bytes"):
        item.read()
