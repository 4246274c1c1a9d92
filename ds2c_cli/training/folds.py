"""Which spots and samples a training leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import InputError
from ..project import Sample


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


def hold_out_blocks(
    spots: np.ndarray, *, neighbours: np.ndarray, seed: int, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Split the spots of a sample in those to train on and those to stop early on: two of twenty slabs are held out.

    The slabs cut the longer axis into equal numbers of spots; spots next to a held-out one are in neither set. Fewer
    than twenty spots are a slab each, and a tenth of them, at least one, is held out. A slab with less than half its
    share of usable spots is not: an array may reach far beyond the tissue.

    Args:
        spots: (n, 2) places, of any unit.
        neighbours: (n, k) rows of spots, -1 where there is none.
        seed: of the choice of slabs.
        usable: (n,) which spots have counts and cells on tissue.

    Returns: rows to train on, and rows to stop on.
    """
    slabs = min(20, len(spots))
    axis = int(np.ptp(spots[:, 1]) > np.ptp(spots[:, 0]))
    slab = np.argsort(np.argsort(spots[:, axis], kind="stable"), kind="stable") * slabs // len(spots)
    full = np.bincount(slab[usable], minlength=slabs) >= usable.sum() / slabs / 2
    order = np.random.default_rng(seed).permutation(slabs)
    held = np.isin(slab, order[full[order]][: max(1, slabs // 10)])
    beside = (held[neighbours] & (neighbours >= 0)).any(1)
    return np.flatnonzero(~held & ~beside), np.flatnonzero(held)


def split_spots(
    learned: Sequence[Sample], held_out: Sequence[Sample], *, seed: int, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the spots to learn from and those to stop early on.

    Args:
        learned: samples to learn from; blocks of them stop the training where no sample is held out.
        held_out: samples whose spots stop the training.
        seed: of the choice of blocks.
        usable: (S,) of all samples' spots, the learned samples' first, those that have counts and cells on tissue.

    Returns: rows to learn from, and rows to stop on, both of the spots of all samples.
    Raises: InputError where one of them is empty.
    """
    learn, stop, first = [], [], 0
    for sample in [*learned, *held_out]:
        rows = np.arange(first, first + len(sample.spots))
        first += len(rows)
        if not held_out:
            places = sample.spots[["x", "y"]].to_numpy()
            apart, held = hold_out_blocks(places, neighbours=sample.neighbours, seed=seed, usable=usable[rows])
            learn.append(rows[apart])
            stop.append(rows[held])
        else:
            (learn if len(learn) < len(learned) else stop).append(rows)
    chosen = [np.concatenate(part) for part in (learn, stop)]
    learn_from, stop_on = (rows[usable[rows]] for rows in chosen)
    if not len(learn_from) or not len(stop_on):
        raise InputError(
            f"{len(learn_from)} spots to learn from and {len(stop_on)} to stop early on are not enough",
            "Give larger samples, or another --membership so that spots have cells.",
        )
    return learn_from, stop_on
