"""Work shared among processes: its order, its bar's total, and a process that dies."""

import os

import pytest

from malaria import processes
from malaria.errors import UserError


def squares(batch):
    return [number * number for number in batch]


def refuse(batch):
    raise ValueError(f"not {batch[0]}")


def die(batch):
    os._exit(len(batch))


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_items(count):
    results = list(processes.in_order(squares, range(333), "count", count))
    assert results == [number * number for number in range(333)]


def test_what_was_prepared_for_gives_the_same_results():
    processes.prepare(squares)
    assert list(processes.in_order(squares, range(333), "count", 2)) == [n * n for n in range(333)]


def test_no_items_are_no_results():
    assert list(processes.in_order(squares, [], "count")) == []


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_the_function_reaches_the_caller(count):
    with pytest.raises(ValueError, match="not 0"):
        list(processes.in_order(refuse, range(100), "count", count))


def test_a_process_that_is_killed_is_an_error_in_words():
    with pytest.raises(UserError, match="worker process was killed, most likely for lack of memory"):
        list(processes.in_order(die, range(100), "count", 2))
