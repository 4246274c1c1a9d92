"""What a model learns from spots against what cells would have taught it: trained on one sample, scored on another.

Data sets are loaded once from the cache of prepared and embedded projects, models are trained and scored in memory, and
one line of JSON per run says top-100 r of the other sample's cells inside and outside spots (OOS_in, OOS_out), within
spots, of the training sample's (IS_...), and r of the other sample's spots, also less their neighbourhood's mean
(`local_spot`), which is what can be known of a cell's resolution where no cell is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from ds2c_cli.cache.store import Cache
from ds2c_cli.evaluation.baselines import BASELINES
from ds2c_cli.evaluation.metrics import Moments, centred_by
from ds2c_cli.expression import log_share
from ds2c_cli.prediction.inference import Inference
from ds2c_cli.project import Project, Sample, default_cache
from ds2c_cli.records import CheckpointInfo
from ds2c_cli.settings import Embedding, Training
from ds2c_cli.training.checkpoint import Checkpoint, build_model, standardisation
from ds2c_cli.training.dataset import SpotDataset, load_dataset
from ds2c_cli.training.fit import fit
from ds2c_cli.training.folds import split_spots
from ds2c_cli.training.labels import gene_panel, labels_of, usable_spots
from ds2c_cli.training.train import CELL_SUPERVISED, with_own_defaults


def top100(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean correlation over the 100 genes with the highest."""
    moments = Moments(1, truth.shape[1])
    moments.add(np.zeros(len(truth), np.int64), truth, prediction)
    r = moments.pearson()
    return float(np.sort(r[np.isfinite(r)])[::-1][:100].mean())


def local(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Each spot's values (s, G) less the mean of its own and its neighbours'."""
    around = np.concatenate([np.arange(len(values))[:, None], neighbours], 1)
    known = (around >= 0) & np.isfinite(values[around.clip(0), 0])
    total = np.where(known[:, :, None], values[around.clip(0)], 0).sum(1)
    return values - total / known.sum(1, keepdims=True).clip(1)


def counts_of(sample: Sample, genes: list[str]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Of the cells (C, G) and of the spots (S, G), in the order of a panel."""
    tables = (sample.cell_counts(), sample.spot_counts())
    return tuple(table.matrix[:, [list(table.genes).index(gene) for gene in genes]] for table in tables)  # type: ignore


def score_cells(
    sample: Sample,
    genes: list[str],
    cells: np.ndarray,
    spot_of: np.ndarray,
    inside: np.ndarray,
    share: np.ndarray,
    scenario: str,
) -> dict[str, float]:
    """Top-100 correlations of logs of shares (c, G) with what cells (c,) of spots (c,) have."""
    truth, spots = counts_of(sample, genes)
    totals = np.asarray(spots.sum(1)).ravel()
    known = totals[spot_of] > 0
    cells, spot_of, inside, share = cells[known], spot_of[known], inside[known], share[known]
    observed = log_share(truth[cells].toarray(), totals[spot_of])
    found = {f"{scenario}_in": top100(observed[inside], share[inside])}
    if not inside.all():
        found[f"{scenario}_out"] = top100(observed[~inside], share[~inside])
    return found | {f"{scenario}_within": top100(*centred_by(spot_of[inside], observed[inside], share[inside]))}


def score(checkpoint: Checkpoint, dataset: SpotDataset, sample: Sample, scenario: str) -> dict[str, float]:
    """Top-100 correlations of one sample, by scenario and metric."""
    _, spots = counts_of(sample, checkpoint.genes)
    shares, spot_log = [], np.full(spots.shape, np.nan, np.float32)
    for batch in Inference(checkpoint, dataset, device="cpu"):
        spot_log[batch.spots] = np.fmax(spot_log[batch.spots], batch.spot_log)  # where it is told
        shares.append((batch.cells, batch.spot_of, batch.inside, batch.share_log))
    found = score_cells(
        sample, checkpoint.genes, *(np.concatenate(part) for part in zip(*shares, strict=True)), scenario
    )
    measured = np.where(np.isfinite(spot_log), log_share(spots.toarray(), np.asarray(spots.sum(1)).ravel()), np.nan)
    rows = np.isfinite(measured[:, 0])
    found[f"{scenario}_spot"] = top100(measured[rows], spot_log[rows])
    around = [
        local(np.where(rows[:, None], values, np.nan), sample.neighbours)[rows] for values in (measured, spot_log)
    ]
    return found | {f"{scenario}_local_spot": top100(*around)}


def score_baseline(name: str, genes: list[str], sample: Sample, scenario: str, all_cells: bool) -> dict[str, float]:
    """The same of the cells by a trivial baseline, which learns nothing but is given the sample's spots."""
    _, spots = counts_of(sample, genes)
    spot_of, inside, area = (sample.cells[column].to_numpy() for column in ("spot", "inside", "area_um2"))
    cells = np.flatnonzero((spot_of >= 0) & (inside | all_cells))
    spot_of, inside, area = spot_of[cells], inside[cells], area[cells]
    share = BASELINES[name](spots, np.asarray(spots.sum(1)).ravel(), spot_of=spot_of, inside=inside, area=area)
    return score_cells(sample, genes, cells, spot_of, inside, share, scenario)


def show(row: dict[str, object]) -> None:
    """Print one run as a line of JSON."""
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", nargs="+", type=Path, help="prepared and embedded, all with the samples of --pairs")
    parser.add_argument("--encoder", default="imagenet-lite0", help="that the projects were embedded with")
    parser.add_argument("--pairs", default="P1:P2,P2:P1", help="train:test")
    parser.add_argument("--models", default="mlp,paper,additive,cell-supervised", help=f"also {', '.join(BASELINES)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--fewer", type=float, default=0.0, help="share of the training spots left out")
    parser.add_argument("--all-cells", action="store_true", help="score outside cells and the training sample too")
    words = parser.parse_args()
    for folder in words.projects:
        project = Project(folder)
        encoder = project.embedding(Embedding(encoder=words.encoder))
        cache = Cache(default_cache(), encoder.fingerprint, encoder.description.dimension)
        for pair in words.pairs.split(","):
            train, test = project.samples(pair.split(":"))
            dataset = load_dataset([train], cache, encoder=encoder.description, outside=False)
            tested = load_dataset([test], cache, encoder=encoder.description, outside=words.all_cells)
            again = load_dataset([train], cache, encoder=encoder.description, outside=True) if words.all_cells else None
            panel = gene_panel([train], [], most=0)
            genes, usable = panel.genes, usable_spots([train], panel.counts)
            about = {"project": folder.name, "encoder": words.encoder, "pair": pair, "fewer": words.fewer}
            for name in words.models.split(","):
                if name in BASELINES:
                    row = score_baseline(name, genes, test, "OOS", words.all_cells)
                    row |= score_baseline(name, genes, train, "IS", True) if words.all_cells else {}
                    show(about | {"model": name} | row)
                    continue
                for seed in map(int, words.seeds.split(",")):
                    settings = with_own_defaults(Training(model=name, seed=seed))
                    of_cells = name == CELL_SUPERVISED
                    labels = labels_of([train], panel, dataset=dataset, usable=usable, of_cells=of_cells)
                    learn, stop = split_spots([train], [], seed=seed, usable=usable)
                    kept = np.random.default_rng(1000 + seed).permutation(learn)
                    learn = np.sort(kept[: round(len(learn) * (1 - words.fewer))])
                    began = time.process_time()
                    torch.manual_seed(seed)
                    network = build_model(settings, dimension=dataset.tiles.shape[1], genes=len(genes))
                    scale = standardisation(dataset, learn)
                    history = fit(
                        network, scale.of(dataset), labels=labels, learn=learn, stop=stop, settings=settings,
                        device=torch.device("cpu"),
                    )  # fmt: skip
                    info = CheckpointInfo(
                        name=name, recipe="", ds2c="", training=settings, genes=genes, geometry=train.geometry,
                        encoder=encoder.used, train=[train.name], val=[], cohorts=[train.cohort], donors=[train.donor],
                        slides=[train.slide_fingerprint], mixed_precision=False, epochs=len(history), best_epoch=1,
                        best_loss=0.0,
                    )  # fmt: skip
                    checkpoint = Checkpoint(network, scale, info)
                    row = about | {"model": name, "seed": seed}
                    row |= {"epochs": len(history), "cpu_s": round(time.process_time() - began, 1)}
                    row |= score(checkpoint, tested, test, "OOS")
                    if again is not None:
                        row |= score(checkpoint, again, train, "IS")
                    show(row)


if __name__ == "__main__":
    main()
