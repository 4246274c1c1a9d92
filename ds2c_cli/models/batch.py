"""A batch of spots with their cells, ragged and flat: what every model reads."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch


@dataclass(frozen=True)
class SuperpixelBatch:
    """The Q superpixels that a batch sees, each once: first those under its spots and cells, then those around."""

    features: torch.Tensor  # (Q, d)
    around: torch.Tensor  # (Q, 8) int64, rows of `features`, -1 where there is none or it is too far to matter
    core: int  # how many lie under a spot or a cell
    near: int  # how many are these or touch one of them; the others are a step further away
    spot_row: torch.Tensor  # (m,) int64, rows of `features` under spots
    spot_of: torch.Tensor  # (m,) int64, which spot of the batch
    cell_row: torch.Tensor  # (n,) int64, rows of `features` under cells' boxes
    cell_of: torch.Tensor  # (n,) int64, which cell of the batch

    def scaled(self, centre: torch.Tensor, feature_sd: torch.Tensor) -> SuperpixelBatch:
        """With features less their centre (d,), in SDs (d,)."""
        return replace(self, features=(self.features - centre) / feature_sd)

    def only(self, cells: torch.Tensor, number: int) -> SuperpixelBatch:
        """Of `number` cells with these rows (c,), in their order."""
        place = torch.full((number,), -1, device=cells.device)
        place[cells] = torch.arange(len(cells), device=cells.device)
        cell_of = place[self.cell_of]
        kept = cell_of >= 0
        return replace(self, cell_row=self.cell_row[kept], cell_of=cell_of[kept])

    def to(self, device: torch.device) -> SuperpixelBatch:
        """All tensors on a device."""
        tensors = ("features", "around", "spot_row", "spot_of", "cell_row", "cell_of")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


@dataclass(frozen=True)
class SpotBatch:
    """S spots, the C cells whose context they are, and the U distinct spot tiles these spots see.

    No padding: cell c belongs to row `spot_of[c]`, sums over a spot are segment sums.
    """

    cells: torch.Tensor  # (C, d) embeddings of the cell tiles
    area: torch.Tensor  # (C,) um2 over the training cells' mean; 1 where a cell is only a point
    spot_of: torch.Tensor  # (C,) int64, row of the batch's spots
    inside: torch.Tensor  # (C,) bool, in the spot; the others only share its context
    tiles: torch.Tensor  # (U, d) embeddings of spot tiles
    own: torch.Tensor  # (S,) int64, row of `tiles`: the spot's own
    around: torch.Tensor  # (S, k) int64, rows of `tiles`: its neighbours, -1 where missing
    superpixels: SuperpixelBatch | None = None  # instead of the embeddings of tiles, which are 0 wide then

    @property
    def n_spots(self) -> int:
        return len(self.own)

    def only(self, cells: torch.Tensor) -> SpotBatch:
        """With these rows (c,) of the cells, in their order, and all spots."""
        kept = {name: getattr(self, name)[cells] for name in ("cells", "area", "spot_of", "inside")}
        superpixels = self.superpixels.only(cells, len(self.cells)) if self.superpixels else None
        return replace(self, superpixels=superpixels, **kept)

    def to(self, device: torch.device) -> SpotBatch:
        """All tensors on a device."""
        there = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in there.items() if value is not None})


def segment_sum(values: torch.Tensor, segment: torch.Tensor, n: int) -> torch.Tensor:
    """Rows of values (C, g) summed by segment (C,): (n, g), in single precision whatever the values are of."""
    values = values.float()
    return values.new_zeros((n, values.shape[1])).index_add_(0, segment, values)
