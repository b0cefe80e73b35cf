from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data.prefetch import prefetch


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("teva-prefetch")]


@given(start=st.integers(0, 5), count=st.integers(0, 20), ahead=st.integers(1, 5), workers=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_in_order_whoever_is_faster(start, count, ahead, workers):
    def make(number):
        time.sleep((number * 7 % 5) * 1e-4)  # later items are often done first
        return number

    assert list(prefetch(make, start, start + count, ahead=ahead, workers=workers)) == [*range(start, start + count)]
    assert not _threads()


@pytest.mark.parametrize(("ahead", "workers"), [(1, 1), (2, 1), (3, 3), (4, 2)])
def test_never_more_than_so_many_ahead(ahead, workers):
    begun = itertools.count()
    taken, most = -1, 0

    def make(number):
        nonlocal most
        next(begun)
        most = max(most, number - taken)
        return number

    for item in prefetch(make, 0, 30, ahead=ahead, workers=workers):
        taken = item
        time.sleep(0.002)  # a slow taker: the threads would run on if nothing held them
    assert most <= ahead + 1  # the one that is handed over has made room already
    assert next(begun) == 30


def test_work_goes_on_while_the_taker_works():
    second = threading.Event()
    items = prefetch(lambda number: second.set() if number == 1 else None, 0, 3)
    next(items)
    assert second.wait(5)
    items.close()


def test_an_error_comes_at_its_item():
    def make(number):
        if number == 3:
            raise KeyError("three")
        return number

    seen = []
    with pytest.raises(KeyError, match="three"):
        seen.extend(prefetch(make, 0, 10, ahead=4, workers=2))
    items = prefetch(make, 0, 10, ahead=8, workers=2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(items)
    with pytest.raises(StopIteration):
        next(items)
    assert not _threads()


@pytest.mark.parametrize("end", ["close", "forget", "break"])
def test_threads_end_with_the_taker(end):
    made = []
    items = prefetch(lambda number: made.append(number), 0, 10**9, ahead=3, workers=2)
    if end == "break":
        for _ in items:
            break
        del items
    else:
        next(items)
        items.close() if end == "close" else None
        del items
    gc.collect()
    assert not _threads()
    assert len(made) <= 5


def test_nothing_begins_before_it_is_asked_for():
    made = []
    items = prefetch(made.append, 0, 5)
    time.sleep(0.02)
    assert made == []
    assert not _threads()
    assert len(list(items)) == 5


def test_items_are_not_kept():
    class Item:
        pass

    kept = []
    for item in prefetch(lambda _: Item(), 0, 5, ahead=2):
        kept.append(weakref.ref(item))
        del item
        gc.collect()
        assert sum(ref() is not None for ref in kept[:-1]) == 0


def test_an_interpreter_that_stops_in_the_middle_ends():
    code = (
        "import time\nfrom teva_data.prefetch import prefetch\n"
        "items = prefetch(lambda n: time.sleep(0.01), 0, 10**9)\nnext(items)\nraise SystemExit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 7


@pytest.mark.parametrize("settings", [{"ahead": 0}, {"workers": 0}])
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match="at least 1"):
        prefetch(int, 0, 1, **settings)


def test_the_example():
    import doctest

    from teva_data import prefetch as module

    assert doctest.testmod(module) == (0, 1)
