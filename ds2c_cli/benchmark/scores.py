"""Keep what a network scored on a sample: one file, without pickles, with what it was made from."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation.scoring import Painted, Scored
from ..files import replacing
from .jobs import Job

DAMAGED = (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


def score_file(folder: Path, job: Job, sample: str) -> Path:
    """Name the file of a job's score on a sample."""
    return folder / "scores" / job.name / f"{sample}.npz"


@dataclass(frozen=True)
class MadeFrom:
    """What a score is made from: the recipe of the job on the sample, and the hashes of its networks."""

    recipe: str
    checkpoints: list[str]


def write_score(path: Path, scored: Scored, made_from: MadeFrom) -> None:
    """Write a score, replacing what was there."""
    table = io.BytesIO()
    scored.per_gene.to_parquet(table, index=False)
    named = ("sample", "model", "encoder", "gene", "pearson")
    pictures = [{key: getattr(one, key) for key in named} for one in scored.painted]
    arrays = {
        f"{name}{i}": np.asarray(getattr(one, name), np.float32)
        for i, one in enumerate(scored.painted)
        for name in ("points", "truth", "prediction", "spot_points", "spots")
    }
    about = {
        **asdict(made_from), "rows": scored.rows, "painted": pictures, "left_out": scored.left_out,
        "constant": scored.constant,
    }  # fmt: skip
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            about=np.array(json.dumps(about)),
            resamples=scored.resamples.astype(np.float32),
            per_gene=np.frombuffer(table.getvalue(), np.uint8),
            **arrays,  # type: ignore[arg-type]
        )


def read_score(path: Path) -> tuple[MadeFrom, Scored] | None:
    """Read a score and what it was made from; None where there is none or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as held:
            about = json.loads(str(held["about"]))
            painted = [
                Painted(
                    **picture,
                    **{n: held[f"{n}{i}"] for n in ("points", "truth", "prediction", "spot_points", "spots")},
                )
                for i, picture in enumerate(about["painted"])
            ]
            per_gene = pd.read_parquet(io.BytesIO(held["per_gene"].tobytes()))
            resamples = held["resamples"]
            scored = Scored(
                about["rows"], resamples, per_gene, painted, left_out=about["left_out"], constant=about["constant"]
            )
            return MadeFrom(about["recipe"], about["checkpoints"]), scored
    except DAMAGED:
        return None
