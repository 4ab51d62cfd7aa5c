"""Fixture for tests of the engine that spreads predictions over workers."""

from collections.abc import Iterator

import pytest

from tests.support import dask_cluster


@pytest.fixture(scope="session")
def scheduler(tmp_path_factory) -> Iterator[str]:
    """The address of a Dask cluster of two workers."""
    with dask_cluster.started(tmp_path_factory.mktemp("cluster"), workers=2) as address:
        yield address
