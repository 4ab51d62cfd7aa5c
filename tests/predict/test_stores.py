"""Cells in an S3 store: the same rows as from a folder; a failing store is an error, not unreadable cells."""

import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from malaria import __version__
from malaria.errors import UserError
from malaria.predict import batch, inputs, stores
from tests.support.bundles import plain


def job_of(folder: Path) -> batch.Job:
    content = {file.name: file.read_bytes() for file in folder.iterdir()}
    return batch.Job(__version__, content, Path(), 0.5)


# The threads of the S3 client may close their connections late.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """A client of a local S3 server with an empty bucket `cells`; environment variables name the server."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        client = boto3.client("s3")
        client.create_bucket(Bucket="cells")
        yield client
    # Or the client of this server would be used for the next one, too.
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def slide(store, pngs, tmp_path_factory) -> Path:
    """A folder of cells, with a copy in the store at s3://cells/slide."""
    folder = tmp_path_factory.mktemp("slide")
    for number, png in enumerate(pngs):
        (folder / f"cell {number} ü+#?.png").write_bytes(png)
    (folder / "note.txt").write_text("no image")
    (folder / ".hidden").write_text("litter")
    with zipfile.ZipFile(folder / "more.zip", "w") as pack:
        for number, png in enumerate(pngs):
            pack.writestr(f"{number}.png", png)
    for path in folder.iterdir():
        store.upload_file(str(path), "cells", f"slide/{path.name}")
    store.put_object(Bucket="cells", Key="slide/", Body=b"")
    store.put_object(Bucket="cells", Key="slide-of-another/cell.png", Body=pngs[0])
    return folder


def test_a_prefix_has_the_rows_that_its_folder_has(model_bundle, slide):
    expected = plain(model_bundle, [str(slide)]).replace(str(slide).encode(), b"s3://cells/slide")
    assert plain(model_bundle, ["s3://cells/slide"]) == expected
    assert plain(model_bundle, ["s3://cells/slide/"]) == expected


def test_an_engine_gives_the_same_bytes_from_a_store_and_into_it(model_bundle, slide, store):
    paths = ["s3://cells/slide", "s3://cells/slide/more.zip", str(slide)]
    done = batch.run(model_bundle, paths, "s3://cells/out/rows.csv", workers=1, size=25)
    assert store.get_object(Bucket="cells", Key="out/rows.csv")["Body"].read() == plain(model_bundle, paths)
    assert (done.counts["ok"], done.counts["unreadable"]) == (12 + 12 + 12 + 12 + 12, 2)
    # The run has left no other object beside it.
    assert [found["name"] for found in stores.objects("s3://cells/out")] == ["cells/out/rows.csv"]


@pytest.mark.usefixtures("store")
def test_rows_that_break_off_leave_no_object():
    with (
        pytest.raises(ZeroDivisionError, match="zero"),
        stores.atomic_output("s3://cells/broken.csv") as part,
    ):
        part.write_text(str(1 / 0))
    with pytest.raises(UserError, match="holds no object"):
        stores.objects("s3://cells/broken.csv")
    with (
        pytest.raises(UserError, match=r"no-such-bucket/rows\.csv: the store refuses it or does not answer"),
        stores.atomic_output("s3://no-such-bucket/rows.csv"),
    ):
        pytest.fail("hours of judging would end in nothing")


@pytest.mark.usefixtures("store")
def test_a_listing_of_several_pages_has_every_object_once():
    from moto.s3.models import s3_backends

    names = [f"many/{number:04}" for number in range(1005)]
    for name in names:
        # Directly into the server's memory, because a thousand requests would take long.
        s3_backends["123456789012"]["aws"].put_object("cells", name, b"")
    assert [found["name"] for found in stores.objects("s3://cells/many")] == [
        f"cells/{name}" for name in names
    ]


def test_an_object_that_vanishes_after_it_was_listed_is_a_row(store, slide, pngs, model_bundle):
    for name in ("gone.png", "gone.zip", "here.png"):
        content = pngs[0] if name != "gone.zip" else (slide / "more.zip").read_bytes()
        store.put_object(Bucket="cells", Key=f"short/{name}", Body=content)
    partition = batch.Partition("", tuple(inputs.listed(["s3://cells/short"])))
    store.delete_object(Bucket="cells", Key="short/gone.png")
    store.delete_object(Bucket="cells", Key="short/gone.zip")
    rows = batch.judge(partition, job_of(model_bundle)).rows
    assert [row.path.rpartition("/")[2] for row in rows] == ["gone.png", "gone.zip", "here.png"]
    assert [row.status for row in rows] == ["unreadable", "unreadable", "ok"]


def test_another_content_under_the_same_name_is_another_source(store):
    marks = []
    for body in (b"one", b"two"):
        store.put_object(Bucket="cells", Key="changing", Body=body)
        marks += [found.mark for found in inputs.listed(["s3://cells/changing"])]
    assert marks[0] != marks[1]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://cells/nothing", "s3://cells/nothing holds no object"),
        (
            "s3://no-such-bucket/slide",
            "s3://no-such-bucket/slide: the store refuses it or does not answer .*bucket.* check the name",
        ),
        ("s3://", "s3:// names no bucket"),
    ],
)
@pytest.mark.usefixtures("store")
def test_what_is_not_there_is_told_in_a_sentence(url, sentence):
    with pytest.raises(UserError, match=sentence):
        list(inputs.listed([url]))


@pytest.mark.usefixtures("store")
def test_a_store_that_does_not_answer_is_no_unreadable_cell(model_bundle, monkeypatch):
    partition = batch.Partition("", (inputs.Source("s3://cells/slide/cell.png", 1, ""),))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(UserError, match=r"cell\.png: the store refuses it or does not answer .*again"):
            batch.judge(partition, job_of(model_bundle))
        s3fs.S3FileSystem.clear_instance_cache()
