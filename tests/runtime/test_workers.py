"""Threads of one process: each item once, no more at a time than threads, and an end on errors."""

import contextlib
import threading

import pytest

from runtime.workers import Workers

NUMBERS = [1, 2, 5]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_item_is_computed_once(number):
    finished = Workers(number).finished(lambda item: item**2, range(100))
    assert sorted(finished) == [(item, item**2) for item in range(100)]


def test_items_are_computed_at_the_same_time():
    together = threading.Barrier(3, timeout=60)
    assert len(list(Workers(3).finished(lambda item: together.wait(), range(3)))) == 3


@pytest.mark.parametrize("number", NUMBERS)
def test_no_more_items_are_taken_than_there_are_threads(number):
    taken = []
    items = (taken.append(item) or item for item in range(100))
    with contextlib.closing(Workers(number).finished(str, items)) as finished:
        for count, _ in enumerate(finished):
            assert len(taken) <= count + 1 + number
    assert len(taken) == 100


@pytest.mark.parametrize("number", NUMBERS)
def test_what_runs_is_finished_where_the_items_end(number):
    stop = []
    items = iter(lambda: None if stop else 1, None)
    done = 0
    for _ in Workers(number).finished(str, items):
        done += 1
        stop.append(done)
    assert 1 <= done <= 2 * number


@pytest.mark.parametrize("number", NUMBERS)
def test_an_error_reaches_the_caller_and_the_other_threads(number):
    workers = Workers(number)

    def fail_or_wait(item):
        if item == 0:
            raise ValueError("the first")
        assert workers.unwanted.wait(60), "nobody said that an error had come"

    with pytest.raises(ValueError, match="the first"):
        list(workers.finished(fail_or_wait, range(100)))
    assert workers.unwanted.is_set()


def test_a_caller_that_leaves_early_stops_the_others():
    workers = Workers(2)

    def wait(item):
        return item == 0 or workers.unwanted.wait(60)

    with contextlib.closing(workers.finished(wait, range(2))) as finished:
        assert next(finished) == (0, True)
    assert workers.unwanted.is_set()
