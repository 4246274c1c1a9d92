"""Step 4: a trained model gives every cell its virtual expression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .. import __version__, schema
from ..cache.store import Cache
from ..choices import Mode
from ..device import device_of
from ..embeddings.embed import Embedded, embed
from ..embeddings.tiles import tiles_of
from ..errors import InputError, UsageError
from ..expression import select_genes
from ..files import recipe_hash, replacing
from ..models import SpotModel
from ..progress import Progress
from ..project import Project, Sample, must_run
from ..records import CheckpointUsed, PredictionInfo, SampleUsed
from ..schema import TARGET_SUM
from ..training.checkpoint import Checkpoint, load_checkpoint
from ..training.dataset import Bags, load_bags
from ..workspace import Workspace
from .deconvolve import Multipliers, add_member_rates, given_spots
from .file import create_predictions, recorded_recipe, write_column

CELLS_AT_ONCE = 8192
MOST_HELD = 150_000_000  # predictions, cells by genes, kept in memory for the second time they are needed
VALUES_AT_ONCE = 1 << 24  # cells times genes: 64 MB a matrix, of which there are about ten at a time


@dataclass(frozen=True)
class Chunk:
    """Some spots with all the cells whose context they are."""

    spots: np.ndarray  # (s,) rows of the spot table
    cells: np.ndarray  # (c,) rows of the cell table
    spot_of: np.ndarray  # (c,) rows of `spots`
    inside: np.ndarray  # (c,) bool
    share: torch.Tensor  # (c, G) counts per 10,000 of the cell's spot
    share_log: torch.Tensor  # (c, G) what log1p of the share that is counted should come to
    spot_log: torch.Tensor  # (s, G) the same of the spot; NaN without members
    spread: torch.Tensor | None = None  # (c, G) SD of the log of the share that is counted


@dataclass
class Predicted:
    """What `predict` did for one sample."""

    sample: str
    path: Path
    cells: int = 0
    deconvolved: int = 0
    unchanged: bool = False
    embedded: Embedded | None = field(default=None, repr=False)


def predict(
    workspace: Workspace | Project,
    checkpoint_path: Path,
    *,
    samples: Sequence[str] = (),
    mode: Mode = "predict",
    output: Path | None = None,
    uncertainty: bool = False,
    force: bool = False,
) -> list[Predicted]:
    """Predict every cell of the samples, embedding what is missing first, and write one AnnData a sample (DESIGN 7).

    `deconvolve` shares the measured counts of each spot out over its members, and corrects the shares of the cells
    outside by what the spots around them say of the model's error; `uncertainty` adds a layer with the SD of
    what `spot_share` is the mean of. Raises InputError when a sample's
    geometry is not the checkpoint's, WeightsError when its encoder cannot be had here.
    """
    workspace = Workspace.of(workspace)
    project = workspace.project
    if mode not in ("predict", "deconvolve"):
        raise UsageError(f"--mode must be predict or deconvolve, not {mode!r}")
    checkpoint = load_checkpoint(checkpoint_path)
    if uncertainty and (mode != "predict" or type(checkpoint.model).spread is SpotModel.spread):
        raise UsageError(
            f"{checkpoint.info.training.model} in mode {mode} says nothing of its uncertainty",
            "Leave out --uncertainty, or use --mode predict and a model that has a likelihood, such as additive.",
        )
    chosen = project.samples(samples)
    if output is not None and len(chosen) > 1:
        raise UsageError(f"one file {output} cannot hold {len(chosen)} samples", "Name one sample, or leave out -o.")
    for sample in chosen:
        check_fit(checkpoint, sample)
        if mode == "deconvolve" and not sample.has_spot_counts:
            raise InputError(f"sample {sample.name} has no spot counts to share out", "Use --mode predict.")
    name = checkpoint.name if mode == "predict" else f"{checkpoint.name}-deconvolve"
    done = []
    for sample in chosen:
        path = output or project.predictions(name) / f"{sample.name}.h5ad"
        made_from = {"checkpoint": checkpoint.hash, "sample": sample.record.recipe, "mode": mode}
        recipe = recipe_hash(made_from | {"uncertainty": uncertainty})
        if not must_run(f"prediction {path}", None if force else recorded_recipe(path), recipe, force):
            done.append(Predicted(sample.name, path, len(sample.cells), unchanged=True))
            continue
        cache, embedded = cache_for(workspace, checkpoint, sample)
        result = _predict_sample(
            checkpoint, sample, cache, path, recipe, mode, workspace.device, workspace.progress, uncertainty
        )
        result.embedded = embedded
        done.append(result)
    return done


def check_fit(checkpoint: Checkpoint, sample: Sample) -> None:
    """Raise InputError unless the sample was prepared with the geometry the model was trained on."""
    if not checkpoint.geometry.fits(sample.geometry):
        raise InputError(
            f"sample {sample.name} was prepared with {sample.geometry}, {checkpoint.name} was trained with "
            f"{checkpoint.geometry}",
            "Prepare the sample with the checkpoint's geometry.",
        )


def cache_for(workspace: Workspace, checkpoint: Checkpoint, sample: Sample) -> tuple[Cache, Embedded | None]:
    """The cache with all embeddings of the sample that the checkpoint needs, encoding those that are missing."""
    wanted = checkpoint.encoder
    cache = Cache(workspace.cache, wanted.fingerprint, wanted.description.dimension)
    _, keys = tiles_of(sample, wanted.description)
    if not cache.missing(keys).any():
        return cache, None
    settings = wanted.settings.changed(precision=wanted.description.precision)
    done = embed(workspace, settings, samples=[sample.name], expected=wanted.fingerprint)
    cache.refresh()
    return cache, done


def chunks(checkpoint: Checkpoint, bags: Bags, device: str = "auto", spread: bool = False) -> Iterator[Chunk]:
    """Run the model over all spots of one sample, some thousand cells at a time, with `spread` also for its SD.

    A spot's members are in one chunk. Of very many cells that only share its context the others follow in chunks of the
    same spot, whose `spot_log` is not told again: NaN.
    """
    where = device_of(device)
    model = checkpoint.model.to(where)
    genes = len(checkpoint.genes)
    for spots in spot_groups(bags.start.numpy(), genes):
        rows = torch.from_numpy(spots)
        index, spot_of = bags.cell_index(rows)
        inside = bags.inside[index]
        whole = checkpoint.scale.of(bags.batch(rows)).to(where)
        for number, (read_together, new) in enumerate(parts_of(inside, genes)):
            with torch.no_grad():
                bag = whole if len(read_together) == len(inside) else whole.only(read_together.to(where))
                read = model.read(bag)
                deviation = model.spread(bag) if spread else None
                members = torch.bincount(bag.spot_of[bag.inside], minlength=len(rows))
                read.spot_log[(members == 0) | (number > 0)] = torch.nan
            cells = read_together[new]
            yield Chunk(
                spots,
                bags.cell_row[index[cells].numpy()],
                spot_of[cells].numpy(),
                inside[cells].numpy(),
                read.share[new].cpu(),
                read.share_log[new].cpu(),
                read.spot_log.cpu(),
                None if deviation is None else deviation[new].cpu(),
            )


def spot_groups(start: np.ndarray, genes: int) -> list[np.ndarray]:
    """Rows of consecutive spots, some thousand cells together, fewer where there are many genes.

    The cells of spot s are start[s] : start[s + 1], start (S + 1,).
    """
    return np.split(np.arange(len(start) - 1), np.flatnonzero(np.diff(start[:-1] // _cells_at_once(genes))) + 1)


def parts_of(inside: torch.Tensor, genes: int) -> Iterator[tuple[torch.Tensor, slice]]:
    """Of a group's cells, members or not (c,), the rows to read together, and which of these were not read before.

    That is all of them, unless beyond the array so many cells have taken one of its spots for their context that they
    do not fit: then the members, whom the spot consists of, are read again with each part of the others.
    """
    at_once = _cells_at_once(genes)
    if len(inside) <= 2 * at_once:
        yield torch.arange(len(inside)), slice(None)
        return
    members, others = torch.nonzero(inside)[:, 0], torch.nonzero(~inside)[:, 0]
    for number, part in enumerate(others.split(at_once)):
        yield torch.cat([members, part]), slice(len(members) if number else 0, None)


def _cells_at_once(genes: int) -> int:
    return min(CELLS_AT_ONCE, max(1, VALUES_AT_ONCE // genes))


def _predict_sample(
    checkpoint: Checkpoint,
    sample: Sample,
    cache: Cache,
    path: Path,
    recipe: str,
    mode: Mode,
    device: str,
    progress: Progress,
    uncertainty: bool,
) -> Predicted:
    cells = sample.cells
    bags = load_bags([sample], cache, checkpoint.encoder.description, outside=True)
    counts = None
    if mode == "deconvolve":
        measured = sample.spot_counts()
        counts = select_genes(measured.matrix, measured.genes, checkpoint.genes)
    centre = cells[["x", "y"]].to_numpy()

    def parts() -> Iterator[Chunk]:
        return chunks(checkpoint, bags, device, uncertainty)

    if counts is not None:
        if len(cells) * len(checkpoint.genes) < MOST_HELD:
            held = list(parts())
            parts = lambda: iter(held)  # noqa: E731
        rates = np.zeros(counts.shape, np.float32)
        for chunk in parts():
            add_member_rates(rates, chunk.share, chunk.spots[chunk.spot_of], chunk.inside)
        around = Multipliers(sample.spots[["x", "y"]].to_numpy(), counts, rates)
    obs = cells.drop(columns="cell_id").set_index(cells["cell_id"].astype(str).to_numpy())
    if counts is not None:
        obs["deconvolved"] = obs["inside"]
    info = PredictionInfo(
        version=schema.PREDICTION_VERSION,
        ds2c=__version__,
        recipe=recipe,
        mode=mode,
        sample=SampleUsed(name=sample.name, slide_fingerprint=sample.slide_fingerprint, mpp=sample.mpp),
        checkpoint=CheckpointUsed(hash=checkpoint.hash, **dict(checkpoint.info)),
    )
    obsm = {schema.OBSM_UM: centre * sample.mpp, schema.OBSM_PX: centre}
    done, number = 0, 0
    of_spot = np.full(len(obs), np.nan, np.float32)
    obs[schema.OF_SPOT] = of_spot
    with (
        replacing(path) as part,
        create_predictions(part, obs, checkpoint.genes, obsm, info, counts is not None, uncertainty) as out,
    ):
        for chunk in parts():
            share, share_log = chunk.share, chunk.share_log
            if counts is not None:
                spot_counts = counts[chunk.spots].toarray().astype(np.float32)
                share = given_spots(share, chunk.spot_of, chunk.inside, spot_counts, centre[chunk.cells], around)
                share_log = torch.log1p(share)
                rows = share.numpy() * spot_counts.sum(1, keepdims=True)[chunk.spot_of] / TARGET_SUM
                rows[~chunk.inside] = np.nan  # a cell outside the spots was not measured
                out[schema.LAYER_COUNTS].write(chunk.cells, rows)
                number += int(chunk.inside.sum())
            out[schema.LAYER_SPOT_SHARE].write(chunk.cells, share_log.numpy())
            if chunk.spread is not None:
                out[schema.LAYER_SD].write(chunk.cells, chunk.spread.numpy())
            own = share.sum(1, keepdim=True).clamp(min=1e-12)
            of_spot[chunk.cells] = own[:, 0].numpy() / TARGET_SUM
            out["X"].write(chunk.cells, torch.log1p(TARGET_SUM * share / own).numpy())
            done += len(chunk.cells)
            progress(f"predict {sample.name}", done, len(cells), "")
        write_column(part, schema.OF_SPOT, of_spot)
    return Predicted(sample.name, path, len(cells), number)
