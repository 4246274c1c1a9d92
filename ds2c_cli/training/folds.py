"""Which spots and samples a training leaves out."""

from __future__ import annotations

from collections.abc import Iterable


def folds_of(groups: Iterable[str], *, most: int) -> list[list[str]]:
    """Deal groups, such as donors, out to folds: in turn, in the order of their names.

    Each group weighs the same, however many samples it has: a fold is named by what it leaves out, and stays the same
    when a donor gets another slide.

    Args:
        groups: Names; each counts once.
        most: How many folds to make; there are at most as many as groups.

    Returns:
        The groups that each fold leaves out.

    >>> folds_of(["d1", "d2", "d3"], most=2)
    [['d1', 'd3'], ['d2']]
    """
    from sklearn.model_selection import GroupKFold  # here: its import takes longer than many a command

    names = sorted(set(groups))
    backwards = range(len(names))[::-1]  # of equal groups it takes the last first
    split = GroupKFold(min(most, len(names))).split(names, groups=backwards)
    return [[names[row] for row in left_out] for _, left_out in split]
