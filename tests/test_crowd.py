"""sidecar/crowd.py: a shared address is told when it is sure, and never of a few requests."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.crowd import AGAIN_S, NEARLY_ALL, WINDOW, Crowd, Share


def after(addresses: list[str], now: float = 0.0, crowd: Crowd | None = None) -> list[Share]:
    crowd = crowd or Crowd()
    return [share for address in addresses if (share := crowd.saw(address, now)) is not None]


@given(st.integers(WINDOW * 8 // 10, WINDOW), st.integers())
def test_never_is_more_told_than_there_is_and_19_in_20_are_always_told(many: int, order: int) -> None:
    """In any order: a share that is told is one that the address has at least."""
    drawn = ["a"] * many + ["b"] * (WINDOW - many)
    random.Random(order).shuffle(drawn)
    [share] = after(drawn)
    [(address, count)] = Counter(drawn).most_common(1)
    if share.is_news:
        assert share.address == address
        assert count / WINDOW >= share.share >= NEARLY_ALL
    assert share.is_news or count < 0.95 * WINDOW


@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), st.integers())
def test_nothing_is_told_of_a_mixed_crowd(weights: list[int], order: int) -> None:
    drawn = random.Random(order).choices([str(n) for n in range(len(weights))], [n**3 + 1 for n in weights], k=WINDOW)
    [share] = after(drawn)
    count = Counter(drawn)[share.address]
    assert count >= share.share * WINDOW
    assert not share.is_news or count >= NEARLY_ALL * WINDOW


@pytest.mark.parametrize("few", [1, 20, WINDOW - 1])
def test_of_a_few_requests_nothing_is_told(few: int) -> None:
    """A demo, a person at a form, a first look at a new deployment."""
    assert after(["127.0.0.1"] * few) == []


def test_it_is_told_once_an_hour() -> None:
    crowd = Crowd()
    told = [
        share.is_news
        for now in (0.0, 1.0, AGAIN_S - 1, AGAIN_S, AGAIN_S + 1)
        for share in after(["a"] * WINDOW, now, crowd)
    ]
    assert told == [True, False, False, True, False]
