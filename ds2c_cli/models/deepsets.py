"""DeepSpot2Cell: the DeepSets network and the paper's way of learning from spots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .bag import Bag, segment_sum
from .base import Measured, SpotModel, inverse_softplus, mean_log, mlp, set_last_bias


class DeepSets(nn.Module):
    """h_j = [phi_cell(c_j); phi_spot(s); mean_k phi_spot(n_k)], read by rho (DESIGN 8)."""

    def __init__(self, dimension: int, genes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.width = hidden
        self.phi_cell = mlp(dimension, hidden, hidden, dropout)
        self.phi_spot = mlp(dimension, hidden, hidden, dropout)
        self.rho = mlp(3 * hidden, hidden, genes, dropout)

    def context(self, bag: Bag) -> torch.Tensor:
        """(S, 2H): the spot's tile and the mean over the neighbours it has."""
        tiles = self.phi_spot(bag.tiles)  # (U, H)
        present = (bag.around >= 0).unsqueeze(-1)  # (S, k, 1)
        around = tiles[bag.around.clamp(min=0)] * present  # (S, k, H)
        return torch.cat([tiles[bag.own], around.sum(1) / present.sum(1).clamp(min=1)], 1)

    def read_cells(self, bag: Bag) -> torch.Tensor:
        """(C, G): rho(h_j) of every cell.

        The context's part of rho's first layer is computed once a spot and handed to its cells, which is the same sum
        as over the concatenated h_j at a third of the work.
        """
        weight, bias = self.rho.get_parameter("0.weight"), self.rho.get_parameter("0.bias")
        of_cell, of_context = weight.split([self.width, 2 * self.width], dim=1)
        cells = F.linear(self.phi_cell(bag.cells), of_cell, bias)  # (C, H)
        return self.rho[1:](cells + F.linear(self.context(bag), of_context)[bag.spot_of])


class Paper(DeepSets, SpotModel):
    """S = rho(sum_j h_j), non-negative, against the log expression of the spot; one cell is read off as rho(h_j).

    Softplus keeps the output non-negative: the published ReLU leaves most outputs dead at the start (FACTS 4).
    """

    def spot(self, bag: Bag) -> torch.Tensor:
        member = bag.inside
        cells = segment_sum(self.phi_cell(bag.cells[member]), bag.spot_of[member], bag.n_spots)  # (S, H)
        number = torch.bincount(bag.spot_of[member], minlength=bag.n_spots).unsqueeze(1)  # (S, 1)
        return F.softplus(self.rho(torch.cat([cells, number * self.context(bag)], 1)))

    def cell(self, bag: Bag) -> torch.Tensor:
        return torch.expm1(F.softplus(self.read_cells(bag)))

    def start_at(self, measured: Measured, cells_a_spot: float) -> None:
        set_last_bias(self.rho, inverse_softplus(mean_log(measured)))
