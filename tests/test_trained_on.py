"""Knowing the cells that a model was made with."""

import numpy as np
import pytest

from malaria import trained_on
from malaria.errors import UserError


@pytest.fixture
def cells():
    return np.random.default_rng(1).integers(0, 256, (6, 50, 50, 3), dtype=np.uint8)


def test_a_cell_is_known_by_its_pixels_and_no_other_is(cells):
    record = trained_on.from_bytes(trained_on.to_bytes(trained_on.hashes(cells[:4])))
    assert trained_on.known(record, cells).tolist() == [True] * 4 + [False] * 2


def test_the_record_tells_nothing_of_the_order_of_the_cells(cells):
    one, other = trained_on.hashes(cells), trained_on.hashes(cells[::-1])
    assert trained_on.to_bytes(one) == trained_on.to_bytes(other)


@pytest.mark.parametrize("content", [b"", b"no array", np.zeros(3).tobytes()])
def test_a_damaged_record_is_refused(content):
    with pytest.raises(UserError, match="record of its training cells is damaged"):
        trained_on.from_bytes(content)
