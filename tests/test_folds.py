"""Folds: whole groups, dealt out in turn, the same on every machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ds2c_cli.training.folds import folds_of


@given(st.sets(st.text(min_size=1, max_size=3), min_size=2, max_size=70), st.integers(2, 12))
def test_groups_are_dealt_out_in_turn(groups: set[str], most: int) -> None:
    names, count = sorted(groups), min(most, len(groups))
    assert folds_of(groups, most=most) == [names[number::count] for number in range(count)]
