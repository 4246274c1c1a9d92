"""One epoch of training, against the published way: nine files per spot, padding, a loop over the batch."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from material import slide_words
from torch.utils.data import DataLoader, Dataset

from ds2c_cli.device import device_of
from ds2c_cli.expression import log_share
from ds2c_cli.models.base import SpotLabels
from ds2c_cli.models.deepsets import Paper
from ds2c_cli.project import Project, Sample
from ds2c_cli.samples.prepare import prepare
from ds2c_cli.samples.sources import Sources
from ds2c_cli.schema import TARGET_SUM
from ds2c_cli.settings import Geometry
from ds2c_cli.training.dataset import SpotDataset
from ds2c_cli.training.fit import Learner, one_pass
from ds2c_cli.training.labels import Labels

DROPOUT, BATCH = 0.3, 256


@dataclass(frozen=True)
class Material:
    """A sample's cells and spots with made-up embeddings and counts, in memory and in the published way's files."""

    dataset: SpotDataset  # members only, as in training
    spots: np.ndarray  # (S, G) log1p per 10,000
    cells: list[np.ndarray]  # of each spot: (n, G) of all cells whose context it is
    inside: list[np.ndarray]  # of each spot: (n,)
    neighbours: np.ndarray
    folder: Path


def main() -> None:
    """Measure and print."""
    options = arguments()
    device = device_of(options.device)
    with TemporaryDirectory(prefix="ds2c-benchmark-") as folder:
        project = Project(Path(folder) / "project")
        geometry = Geometry(membership="centroid", spot_um=options.spot_um)
        sources = Sources(options.slide.resolve(), options.cells, mpp=options.mpp, trust_coordinates=True)
        prepare(project, sources, geometry=geometry)
        (sample,) = project.samples()
        material = made_up(sample, options.dimension, options.genes, options.spots, Path(folder))
        rounds = []
        for _ in range(options.repeats + 1):  # the first warms up
            torch.manual_seed(0)
            network = Paper(options.dimension, options.genes, hidden=options.hidden, dropout=DROPOUT).to(device)
            ours, exact = (
                timed(lambda network=network, mixed=mixed: epoch(network, material, device, mixed))
                for mixed in (True, False)
            )
            once = timed(lambda network=network: published_epoch(network, material, device, metrics=False))
            all_of_it = timed(lambda network=network: published_epoch(network, material, device, metrics=True))
            rounds.append((ours, exact, once, all_of_it))
    ours, exact, once, all_of_it = (median(column) for column in zip(*rounds[1:], strict=True))
    number = np.bincount(material.dataset.inside.long())
    result = {
        "spots": material.dataset.n_spots,
        "members": int(number[-1]),
        "largest spot": max(map(len, material.inside)),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "ours, s": ours,
        "ours in single precision, s": exact,
        "published, s": all_of_it,
        "published without its cell metrics, s": once,
        "times faster": median(r[3] / r[0] for r in rounds[1:]),
        "times faster in single precision": median(r[3] / r[1] for r in rounds[1:]),
        "times faster without cell metrics": median(r[2] / r[0] for r in rounds[1:]),
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:40} {value:.3g}" if isinstance(value, float) else f"{name:40} {value}")


def made_up(sample: Sample, dimension: int, genes: int, most: int, folder: Path) -> Material:
    """Random embeddings and counts for the sample's first spots, in memory and in one file per spot."""
    random = np.random.default_rng(0)
    context, inside = sample.cells["spot"].to_numpy(), sample.cells["inside"].to_numpy()
    members = np.bincount(context[inside], minlength=len(sample.spots))
    chosen = np.flatnonzero(members)[:most]  # the published way replaces empty spots by others
    place = np.full(len(sample.spots) + 1, -1)
    place[chosen] = np.arange(len(chosen))
    around = sample.neighbours[chosen]
    around = np.where(around >= 0, place[around], -1)
    tiles = random.normal(size=(len(chosen), dimension)).astype(np.float32)
    vectors, spots, cells, insides, areas = [], [], [], [], []
    for spot in chosen:
        rows = np.flatnonzero(context == spot)
        counts = 1 + random.poisson(0.3, (len(rows), genes))
        total = counts[inside[rows]].sum()
        cells.append(log_share(counts, np.full(len(rows), total)))
        spots.append(log_share(counts[inside[rows]].sum(0, keepdims=True), np.array([total]))[0])
        insides.append(inside[rows])
        vectors.append(random.normal(size=(len(rows), dimension)).astype(np.float32))
        areas.append(np.ones(int(inside[rows].sum()), np.float32))
    for number, (tile, of_cells) in enumerate(zip(tiles, vectors, strict=True)):
        np.save(folder / f"patch_{number}.npy", np.concatenate([tile[None], of_cells]))
    own = [vector[keep] for vector, keep in zip(vectors, insides, strict=True)]
    dataset = SpotDataset(
        cells=torch.from_numpy(np.concatenate(own)),
        area=torch.from_numpy(np.concatenate(areas)),
        inside=torch.ones(sum(map(len, own)), dtype=torch.bool),
        start=torch.from_numpy(np.cumsum([0, *map(len, own)])),
        tiles=torch.from_numpy(tiles),
        around=torch.from_numpy(around.astype(np.int64)),
        cell_row=np.arange(sum(map(len, own))),
        sample=np.zeros(len(chosen), np.int64),
    )
    return Material(
        mpp=dataset, cells=np.stack(spots), cells_from=cells, cell_counts=insides, measured=around, transcripts=folder
    )


def epoch(network: Paper, material: Material, device: torch.device, mixed: bool) -> None:
    """Ours: everything on the device, gathered by index, no padding."""
    counts = torch.expm1(torch.from_numpy(material.spots)) / TARGET_SUM  # of spots of a total of 1
    ones = torch.ones((len(counts), 1))
    dataset, spots = material.dataset.to(device), SpotLabels(counts, ones, ones).to(device)
    optimiser = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
    learner = Learner(optimiser, torch.Generator().manual_seed(0), mixed=mixed)
    every = torch.arange(dataset.n_spots)
    one_pass(network.train(), dataset, labels=Labels(spots), spots=every, size=BATCH, learner=learner)


class Published(Dataset):
    """A spot and its neighbours from nine files, padded to the largest spot."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.most = max(map(len, material.inside))

    def __len__(self) -> int:
        return len(self.material.inside)

    def __getitem__(self, spot: int) -> dict[str, torch.Tensor]:
        of = self.material
        loaded = np.load(of.folder / f"patch_{spot}.npy")
        n, genes = len(loaded) - 1, of.spots.shape[1]
        embeddings = np.zeros((self.most, loaded.shape[1]), np.float32)
        embeddings[:n] = loaded[1:]
        expression = np.zeros((self.most, genes), np.float32)
        expression[:n] = of.cells[spot]
        inside, mask = np.zeros(self.most, np.float32), np.zeros(self.most, np.float32)
        inside[:n], mask[:n] = of.inside[spot], 1
        context, absent = [loaded[0].copy()], [False]
        for neighbour in of.neighbours[spot]:
            path = of.folder / f"patch_{neighbour}.npy"
            there = path.exists()
            context.append(np.load(path)[0] if there else np.zeros(loaded.shape[1], np.float32))
            absent.append(not there)
        return {
            "cells": torch.tensor(embeddings), "expression": torch.tensor(expression), "inside": torch.tensor(inside),
            "mask": torch.tensor(mask), "context": torch.tensor(np.array(context)), "absent": torch.tensor(absent),
            "spot": torch.tensor(of.spots[spot]),
        }  # fmt: skip


def published_epoch(network: Paper, material: Material, device: torch.device, metrics: bool) -> None:
    """The published training step, re-created over the same network (one, where it has ten of each part)."""
    optimiser = torch.optim.AdamW(network.train().parameters(), 1e-4)
    kept = []
    for batch in DataLoader(Published(material), BATCH, shuffle=True):
        on = {name: tensor.to(device) for name, tensor in batch.items()}
        member = on["mask"] * on["inside"]
        b, c, d = on["cells"].shape
        cells = network.phi_cell((on["cells"] * on["inside"].unsqueeze(-1)).view(-1, d)).view(b, c, -1)
        own, around = context_of(network, on["context"], on["absent"])
        joined = torch.cat([cells, own.unsqueeze(1).expand(-1, c, -1), around.unsqueeze(1).expand(-1, c, -1)], 2)
        predicted = network.rho((joined * member.unsqueeze(-1)).sum(1))
        loss = F.mse_loss(predicted, on["spot"])
        if metrics:
            for spot in range(b):  # every cell, one spot at a time; the graph is kept, as published
                valid = on["mask"][spot] > 0
                own, around = context_of(network, on["context"][spot][None], on["absent"][spot][None])
                of_cells = network.phi_cell(on["cells"][spot, valid])
                n = len(of_cells)
                one = network.rho(torch.cat([of_cells, own.expand(n, -1), around.expand(n, -1)], 1)).clamp_(min=0)
                within = on["inside"][spot, valid] > 0
                kept += [(one[within], on["expression"][spot, valid][within]), (one[~within],)]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()


def context_of(network: Paper, context: torch.Tensor, absent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """phi of the spots' own tiles (b, H), and the mean over their neighbours' (b, H)."""
    own, around = network.phi_spot(context[:, 0]), network.phi_spot(context[:, 1:])
    around = around.masked_fill(absent[:, 1:].unsqueeze(-1), 0.0).sum(1)
    return own, around / (~absent[:, 1:]).sum(1, keepdim=True).clamp(min=1)


def timed(work: object) -> float:
    """Seconds."""
    began = perf_counter()
    work()  # type: ignore[operator]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - began


def arguments() -> argparse.Namespace:
    """The words of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    slide_words(parser)
    parser.add_argument("--spot-um", type=float, default=34.0, help="disc; the paper's 160 px are 34 um on its lungs")
    parser.add_argument("--dimension", type=int, default=1024, help="of an embedding (Phikon-v2's)")
    parser.add_argument("--genes", type=int, default=377)
    parser.add_argument("--hidden", type=int, default=512, help="width; a small one leaves what is not arithmetic")
    parser.add_argument("--spots", type=int, default=1000, help="at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    return parser.parse_args()


if __name__ == "__main__":
    main()
