"""Spots on a slide, the cells that each of them holds, and what they express."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..expression import is_control, sum_over_spots
from ..geometry import Lattice, centroids, context_of, member_of, neighbours_of, pseudo_spots
from ..io.counts import Counts
from ..io.slides import Slide
from ..io.spots import SpotTable
from ..io.transcripts import count_in_spots
from ..settings import Geometry
from .material import Material


@dataclass(frozen=True)
class Placed:
    """The spots of a sample, its cells in them, and what the spots express; lengths in level-0 pixels."""

    geometry: Geometry  # in microns, with the layout that the spots have
    lattice: Lattice
    spots: SpotTable
    neighbours: np.ndarray  # (spots, k) rows of spots, -1 where missing
    n_cells: np.ndarray  # (spots,) int32: members
    points: np.ndarray  # (cells, 2) centroids
    member: np.ndarray  # (cells,) int32: the spot each cell is a member of, -1 for none
    context: np.ndarray  # (cells,) int32: the spot whose tile each cell sees
    counts: Counts | None  # of the spots
    genes: np.ndarray  # (g,) bool: those of the counts that stay
    notes: list[str]


def place(material: Material, slide: Slide, *, geometry: Geometry) -> Placed:
    """Lay pseudo-spots on a slide, or take those that were measured, and say which cells are in them.

    Raises:
        InputError: There is no spot, no cell in any, or nothing that counts as a gene.
    """
    measured, mpp = material.measured, material.mpp
    geometry = geometry.in_microns(mpp)
    if measured is not None:
        lattice = measured.lattice
        geometry = geometry.changed(layout=lattice.layout)
        centres = measured.spots.centres
    else:
        pitch_um = geometry.spot_tile_um if geometry.layout == "grid" else geometry.pitch_um
        lattice = Lattice(geometry.layout, pitch_um / mpp)
        centres = pseudo_spots(slide.width, slide.height, mpp=mpp, geometry=geometry)
    points = centroids(material.cells.outline)
    centres, member, context = _membership(material, points, spots=centres, geometry=geometry)
    if not len(centres):
        raise InputError(
            f"{slide.path} has no room for a spot: its {slide.width} x {slide.height} pixels are "
            f"{slide.width * mpp:.0f} x {slide.height * mpp:.0f} um, or no cell lies in a spot's tile",
            "Check --mpp, or make spots smaller with --spot-um and --spot-tile-um.",
        )
    n_cells = np.bincount(member[member >= 0], minlength=len(centres)).astype(np.int32)
    if material.cell_counts is not None and not n_cells.any():
        raise InputError(
            f"no cell of {material.cells_from} is in a spot by the rule {geometry.membership!r}: the spot set is empty",
            "Choose another --membership, or larger spots with --spot-um.",
        )
    spots = measured.spots if measured is not None else _named(centres, n_cells)
    counts, notes = _expression(material, spots, member=member, geometry=geometry)
    genes, dropped = _genes_kept(material.cell_counts or counts)
    return Placed(
        geometry=geometry,
        lattice=lattice,
        spots=spots,
        neighbours=measured.neighbours if measured is not None else neighbours_of(centres, lattice),
        n_cells=n_cells,
        points=points,
        member=member,
        context=context,
        counts=counts,
        genes=genes,
        notes=notes + dropped,
    )


def _named(centres: np.ndarray, n_cells: np.ndarray) -> SpotTable:
    """Name pseudo-spots at centres (n, 2), which lie on tissue where they hold a cell."""
    spot_id = np.array([f"spot_{i:06d}" for i in range(len(centres))], object)
    return SpotTable(spot_id, centres[:, 0], centres[:, 1], n_cells > 0)


def _membership(
    material: Material, points: np.ndarray, *, spots: np.ndarray, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the spots (n, 2) that are kept, and per cell the spot it is a member of and the one whose context it sees.

    Measured spots are all kept; of pseudo-spots those whose tile holds a cell: the others are glass.
    """
    tile_side = geometry.spot_tile_um / material.mpp
    member = member_of(material.cells.outline, spots, mpp=material.mpp, geometry=geometry)
    context = context_of(points, member, spots, tile_side)
    if material.measured is not None or not len(spots):
        return spots, member, context
    held = member >= 0
    held |= np.abs(points - spots[context]).max(1) <= tile_side / 2
    used = np.unique(context[held])
    row = np.full(len(spots), -1, np.int32)
    row[used] = np.arange(len(used))
    spots, member = spots[used], np.where(member >= 0, row[member], -1).astype(np.int32)
    return spots, member, context_of(points, member, spots, tile_side)


def _expression(
    material: Material, spots: SpotTable, *, member: np.ndarray, geometry: Geometry
) -> tuple[Counts | None, list[str]]:
    """Give what the spots express, measured or counted from cells or transcripts, and a sentence about others."""
    cell_counts = material.cell_counts
    if cell_counts is None:
        return (material.measured.counts if material.measured is not None else None), []
    if geometry.pseudospot == "cells":
        summed = sum_over_spots(cell_counts.matrix, member, len(spots.spot_id))
        return Counts(spots.spot_id, cell_counts.genes, summed), []
    return _transcripts_in_spots(material, cell_counts, spots=spots, geometry=geometry)


def _transcripts_in_spots(
    material: Material, cell_counts: Counts, *, spots: SpotTable, geometry: Geometry
) -> tuple[Counts, list[str]]:
    """Count every transcript in a spot's disc, of the genes that the cells have; and a sentence about others."""
    if material.transcripts is None:
        raise InputError(
            f"there are no transcripts beside {material.cells_from} for pseudo-spots of transcripts",
            "Give a run with its transcripts, or --pseudospot cells.",
        )
    counted, left = count_in_spots(
        material.transcripts.batches(),
        spots.centres,
        radius=geometry.spot_um / material.mpp / 2,
        spot_id=spots.spot_id,
        genes=cell_counts.genes,
    )
    if not counted.matrix.nnz:
        raise InputError(f"no transcript of {material.transcripts.path} is in a spot", "Check the alignment and --mpp.")
    return counted, [f"{left:,} transcripts are of features that the cells' counts do not have"] if left else []


def _genes_kept(counts: Counts | None) -> tuple[np.ndarray, list[str]]:
    """Find the genes (g,) that are no control features, and say what was dropped.

    Rare genes stay: they are left out of a model's panel, but are part of what was measured.
    """
    if counts is None:
        return np.empty(0, bool), []
    control = is_control(list(counts.genes))
    if control.all():
        raise InputError("all features of the counts are control features", "Give the counts of the genes.")
    if not control.any():
        return ~control, []
    return ~control, [f"left out {control.sum():,} control features; {(~control).sum():,} genes stay"]
