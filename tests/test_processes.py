"""malaria.processes: the order of results from parallel workers, errors, and a worker that is killed."""

import os

import pytest

from malaria import processes
from malaria.errors import UserError


def square(number):
    return number * number


def refuse(number):
    raise ValueError(f"not {number}")


def die(_number):
    os._exit(1)


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_items(count):
    results = list(processes.map_in_order(square, range(333), "count", count))
    assert results == [number * number for number in range(333)]


def test_no_items_are_no_results():
    assert list(processes.map_in_order(square, [], "count")) == []


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_the_function_reaches_the_caller(count):
    with pytest.raises(ValueError, match=r"not \d+"):
        list(processes.map_in_order(refuse, range(100), "count", count))


def test_a_process_that_is_killed_is_an_error_in_words():
    with pytest.raises(UserError, match="worker process was killed, most likely for lack of memory"):
        list(processes.map_in_order(die, range(100), "count", 2))
