"""DeepSpot2Cell: the DeepSets network and the paper's way of learning from spots."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from ..choices import Context, SpotPooling
from .base import SpotLabels, SpotModel, inverse_softplus, mean_log, mlp, set_last_bias
from .batch import SpotBatch, segment_sum


class DeepSets(nn.Module):
    """h_j = [phi_cell(c_j); phi_spot(s); mean_k phi_spot(n_k)], read by rho.

    `context` leaves out the last part (spot) or the last two (cell).
    """

    def __init__(
        self, dimension: int, genes: int, *, hidden: int, dropout: float, context: Context = "neighbours"
    ) -> None:
        super().__init__()
        self.width, self.parts = hidden, {"cell": 1, "spot": 2, "neighbours": 3}[context]
        self.phi_cell = mlp(dimension, hidden, hidden, dropout)
        if self.parts > 1:
            self.phi_spot = mlp(dimension, hidden, hidden, dropout)
        self.rho = mlp(self.parts * hidden, hidden, genes, dropout)

    def context(self, batch: SpotBatch) -> torch.Tensor:
        """(S, (parts - 1) H): the spot's tile and the mean over the neighbours it has."""
        if self.parts == 1:
            return batch.cells.new_empty((batch.n_spots, 0))
        tiles = self.phi_spot(batch.tiles)  # (U, H)
        if self.parts == 2:
            return tiles[batch.own]
        present = (batch.around >= 0).unsqueeze(-1)  # (S, k, 1)
        around = tiles[batch.around.clamp(min=0)] * present  # (S, k, H)
        return torch.cat([tiles[batch.own], around.sum(1) / present.sum(1).clamp(min=1)], 1)

    def read_cells(self, batch: SpotBatch) -> torch.Tensor:
        """(C, G): rho(h_j) of every cell.

        The context's part of rho's first layer is computed once a spot and handed to its cells, which is the same sum
        as over the concatenated h_j at a third of the work.
        """
        weight, bias = self.rho.get_parameter("0.weight"), self.rho.get_parameter("0.bias")
        of_cell, of_context = weight.split([self.width, (self.parts - 1) * self.width], dim=1)
        cells = F.linear(self.phi_cell(batch.cells), of_cell, bias)  # (C, H)
        return self.rho[1:](cells + F.linear(self.context(batch), of_context)[batch.spot_of]).float()


class Paper(DeepSets, SpotModel):
    """S = rho(sum_j h_j), non-negative, against the log expression of the spot; one cell is read off as rho(h_j).

    `pooling` takes the mean, or the last state of a GRU that reads the h_j one after the other, for the sum.
    Softplus keeps the output non-negative: the published ReLU leaves most outputs dead at the start.
    """

    options: ClassVar[tuple[str, ...]] = ("context", "pooling")

    def __init__(
        self,
        dimension: int,
        genes: int,
        *,
        hidden: int,
        dropout: float,
        context: Context = "neighbours",
        pooling: SpotPooling = "sum",
    ) -> None:
        super().__init__(dimension, genes, hidden=hidden, dropout=dropout, context=context)
        self.pooling = pooling
        if pooling == "gru":
            self.gru = nn.GRU(self.parts * hidden, hidden, batch_first=True)
            self.rho = mlp(hidden, hidden, genes, dropout)

    def spot(self, batch: SpotBatch) -> torch.Tensor:
        if self.pooling == "gru":
            return F.softplus(self.rho(self._last_state(batch)).float())
        member = batch.inside
        number = torch.bincount(batch.spot_of[member], minlength=batch.n_spots).unsqueeze(1)  # (S, 1)
        # phi's last layer is linear: it is applied once to the sum, not to every cell.
        hidden = segment_sum(self.phi_cell[:-1](batch.cells[member]), batch.spot_of[member], batch.n_spots)
        weight, bias = self.phi_cell.get_parameter("3.weight"), self.phi_cell.get_parameter("3.bias")
        cells = F.linear(hidden, weight) + number * bias  # (S, H)
        pooled = torch.cat([cells, number * self.context(batch)], 1)  # (S, 3H)
        return F.softplus(self.rho(pooled / number.clamp(min=1) if self.pooling == "mean" else pooled).float())

    def cell(self, batch: SpotBatch) -> torch.Tensor:
        if self.pooling == "gru":
            return torch.expm1(F.softplus(self.rho(self.gru(self._vectors(batch).unsqueeze(1))[0][:, 0])))
        return torch.expm1(F.softplus(self.read_cells(batch)))

    def start_at(self, labels: SpotLabels, cells_per_spot: float) -> None:
        set_last_bias(self.rho, inverse_softplus(mean_log(labels)))

    def _vectors(self, batch: SpotBatch) -> torch.Tensor:
        """(C, 3H): the h_j."""
        return torch.cat([self.phi_cell(batch.cells), self.context(batch)[batch.spot_of]], 1)

    def _last_state(self, batch: SpotBatch) -> torch.Tensor:
        """(S, H): of the GRU after the members of each spot, in the order of the cell table; 0 without members."""
        member = batch.inside
        spot_of, order = batch.spot_of[member].sort(stable=True)
        vectors = self._vectors(batch)[member][order].float()
        number = torch.bincount(spot_of, minlength=batch.n_spots)  # (S,)
        state = vectors.new_zeros((batch.n_spots, self.width))
        filled = torch.nonzero(number)[:, 0]
        if not len(filled):
            return state
        place = torch.arange(len(spot_of), device=spot_of.device) - (number.cumsum(0) - number)[spot_of]
        padded = vectors.new_zeros((batch.n_spots, int(number.max()), vectors.shape[1]))
        padded = padded.index_put((spot_of, place), vectors)[filled]
        packed = pack_padded_sequence(padded, number[filled].cpu(), batch_first=True, enforce_sorted=False)
        with torch.autocast(vectors.device.type, enabled=False):  # on CUDA it would make a GRU one of half precision
            return state.index_copy(0, filled, self.gru(packed)[1][0])
