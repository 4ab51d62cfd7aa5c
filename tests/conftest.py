"""Fixtures that several test modules use: a synthetic sample, and the real cells if they are available."""

import gc
import io
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import absl.logging
import pytest
from filelock import FileLock
from PIL import Image

from malaria import params
from malaria.fetch import sources
from tests.support import app_server, bundles, project, traces

ROOT = Path(__file__).resolve().parents[1]

# When DVC sets up its logging, TensorFlow's log handler closes its stream, unless that is the current
# sys.stderr. In a test with another sys.stderr, it would close pytest's.
absl.logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without garbage collection: it would look again and again at modules that stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, whatever the order of the others."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


@pytest.fixture(scope="session")
def shared_cells() -> Path:
    """The folder of real cells beside the project; the test is skipped if there is none."""
    folder = ROOT.parent / "shared" / "cells"
    if not folder.is_dir():
        if os.environ.get("MALARIA_REQUIRE_SHARED"):
            pytest.fail("MALARIA_REQUIRE_SHARED is set, but ../shared/cells is not here")
        pytest.skip("needs the real cells in ../shared/cells")
    return folder


@pytest.fixture(scope="session")
def shared_cases(shared_cells) -> Path:
    """The folder of real cells in the formats and layouts that people have; the test may be skipped, too."""
    return shared_cells.parent / "cases"


@pytest.fixture(scope="session")
def data() -> params.Data:
    """The `data` section of params.yaml for a small sample: 8 patients, 160 cells."""
    sample = params.SampleData(patients=8, cells=160, seed=1)
    return params.load_params(ROOT / "params.yaml").data.model_copy(update={"sample": sample})


@pytest.fixture(scope="session")
def raw(data, tmp_path_factory) -> Path:
    """A folder as `fetch` leaves it, with a small synthetic sample. Shared: read it, never change it."""
    folder = tmp_path_factory.mktemp("data") / "raw"
    sources.write(data, folder)
    return folder


@pytest.fixture(autouse=True)
def leaves_no_trace(request) -> Iterator[None]:
    """Fail a test that changes environment or working directory, or leaves an open file or a process.

    Files and processes of fixtures with a wider scope exist before the test, and do not count.
    """
    before = traces.now()
    yield
    left = traces.left_since(before, processes=not request.node.get_closest_marker("restarts_processes"))
    assert not left, f"{request.node.nodeid} leaves {', '.join(left)}"


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a named folder once for all workers of a test run. Read it or copy it, never change it."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if os.environ.get("PYTEST_XDIST_WORKER") else shared

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / "once" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not Path(f"{folder}.done").exists():
                make(folder)
                Path(f"{folder}.done").touch()
        return folder

    return made


@pytest.fixture(scope="session")
def finished(once) -> Path:
    """A repository in which `dvc repro` has run on a small sample. Shared: read it, never change it."""

    def make(repository: Path) -> None:
        project.start(repository, project.SMALL)
        done = project.run("dvc", "repro", cwd=repository)
        Path(f"{repository}.terminal.txt").write_text(done.stdout + done.stderr)

    return once("finished", make)


@pytest.fixture(scope="session")
def crossvalidated(once, finished) -> Path:
    """A copy of `finished` with a cross-validation named spread: three folds, two at once. Read it only."""

    def make(repository: Path) -> None:
        project.copy(finished, repository)
        command = (sys.executable, "-m", "experiments.crossval", "--folds", "3", "--name", "spread")
        done = project.run(*command, "--workers", "2", cwd=repository)
        Path(f"{repository}.terminal.txt").write_text(done.stdout)

    return once("crossvalidated", make)


@pytest.fixture
def repository(finished, tmp_path) -> Path:
    """A copy of `finished` that a test may change; results are links, since nothing writes them in place."""
    return project.copy(finished, tmp_path / "repository")


@pytest.fixture(scope="session")
def packaged(once) -> Path:
    """A copy of the tracked files after `make package`, with wheel and sdist in dist. Read it only."""

    def make(source: Path) -> None:
        project.start(source, {})
        # -o env: do not make the environment, which is there.
        project.run("make", "package", "-o", "env", cwd=source)

    return once("packaged", make)


@pytest.fixture(scope="session")
def model_bundle(tmp_path_factory) -> Path:
    """A bundle whose network is made by hand: the more violet a spot, the likelier a parasite.

    Shared: read it, never change it. It was "made with" the first 4 of `drawn_cells`.
    """
    return bundles.violet(tmp_path_factory.mktemp("bundle") / "malaria-cells")


@pytest.fixture(scope="session")
def mapped_bundle(tmp_path_factory) -> Path:
    """`model_bundle` with a network that has a map. Shared, too."""
    return bundles.violet(tmp_path_factory.mktemp("mapped") / "malaria-cells", mapped=True)


@pytest.fixture(scope="session")
def pngs() -> list[bytes]:
    """The PNG files of `bundles.drawn_cells`."""
    found = []
    for pixels, _ in bundles.drawn_cells():
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        found.append(stream.getvalue())
    return found


@pytest.fixture(scope="session")
def gated_bundle(tmp_path_factory) -> Path:
    """`model_bundle` with an out-of-distribution check, which takes synthetic cells. Shared, too."""
    return bundles.violet(tmp_path_factory.mktemp("gated") / "malaria-cells", gated=True)


@pytest.fixture(scope="session")
def live(gated_bundle, tmp_path_factory) -> Iterator[app_server.Server]:
    """`python -m app` with `gated_bundle`, on a free port."""
    with app_server.start("--model", str(gated_bundle), log=tmp_path_factory.mktemp("app") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Debian's Chromium; the test is skipped if there is none."""
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("MALARIA_REQUIRE_BROWSER"):
            pytest.fail("MALARIA_REQUIRE_BROWSER is set, but there is no chromium")
        pytest.skip("needs Chromium: make browser, as root")
    return found


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, from npm's folder node_modules; the test is skipped if it is missing."""
    file = ROOT / "node_modules/axe-core/axe.min.js"
    if not file.is_file():
        if os.environ.get("MALARIA_REQUIRE_BROWSER"):
            pytest.fail("MALARIA_REQUIRE_BROWSER is set, but axe-core is not in node_modules")
        pytest.skip("needs axe-core: make browser")
    return file.read_text(encoding="utf-8")
