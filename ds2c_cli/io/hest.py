"""HEST-1k: the folders of the collection, one sample by its id, and which of its pixel sizes to believe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError, WeightsError
from .counts import Counts, counts_of, open_anndata
from .spots import SpotTable
from .tables import column_names, identifiers, listed, readable
from .transcripts import MICRONS, PIXELS

HUB = "MahmoodLab/hest"
CELLS = {  # the better first; a sample has some of them
    "cell": "xenium_seg/{}_xenium_cell_seg",
    "nucleus": "xenium_seg/{}_xenium_nucleus_seg",
    "cellvit": "cellvit_seg/{}_cellvit_seg",
}
CELL_SUFFIXES = (".parquet", ".geojson", ".geojson.zip")
TRANSCRIPTS = "transcripts/{}_transcripts.parquet"
PITCHES_UM = {"Visium": 100.0, "Spatial Transcriptomics": 200.0}
AGREE = 0.05


@dataclass(frozen=True)
class Hest:
    """Where the files of a sample are, and what its metadata says."""

    id: str
    slide: Path
    spots: Path  # st/ID.h5ad: spots, or pooled pseudo-spots of Xenium
    metadata: dict[str, object]
    metadata_file: Path
    cells: dict[str, Path]  # by kind: cell, nucleus, cellvit
    transcripts: Path | None

    @property
    def technology(self) -> str:
        """Visium, Xenium, Spatial Transcriptomics, Visium HD."""
        return str(self.metadata.get("st_technology", ""))

    @property
    def donor(self) -> str:
        """The patient as HEST names them, within the study; empty where it does not."""
        patient = self.metadata.get("patient")
        unknown = patient is None or patient != patient  # NaN, which HEST's table has for none
        return "" if unknown else str(patient).strip()


def hest_ids(folder: Path) -> list[str]:
    """List the samples of a HEST-1k folder; raises InputError where it has none."""
    ids = sorted(path.stem for path in (folder / "metadata").glob("*.json"))
    if not ids:
        raise InputError(f"{folder} has no metadata/*.json", "Give the folder that holds wsis/, st/ and metadata/.")
    return ids


def open_hest(folder: Path, sample: str) -> Hest:
    """Find a sample of a HEST-1k folder (wsis/, st/, metadata/ and what else there is).

    Raises InputError for a missing folder or id, which lists those that are there.
    """
    here = hest_ids(folder)
    metadata_file, slide, spots = (
        folder / "metadata" / f"{sample}.json", folder / "wsis" / f"{sample}.tif", folder / "st" / f"{sample}.h5ad",
    )  # fmt: skip
    for path in (metadata_file, slide, spots):
        if not path.is_file():
            raise InputError(f"{path} does not exist (metadata/ has {listed(here)})", "Download it, or take --hest hf.")
    with readable(metadata_file, "JSON"):
        metadata = dict(json.loads(metadata_file.read_text()))
    cells = {}
    for kind, name in CELLS.items():
        candidates = [folder / f"{name.format(sample)}{suffix}" for suffix in CELL_SUFFIXES]
        if found := next((path for path in candidates if path.is_file()), None):
            cells[kind] = found
    transcripts = folder / TRANSCRIPTS.format(sample)
    return Hest(
        id=sample,
        slide=slide,
        spots=spots,
        metadata=metadata,
        metadata_file=metadata_file,
        cells=cells,
        transcripts=transcripts if transcripts.is_file() else None,
    )


def download_hest(samples: Sequence[str]) -> Path:
    """Fetch what these samples need from the hub, with the user's token, and return the folder.

    Raises WeightsError when the hub cannot be reached or access was not granted.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    names = [
        "wsis/{}.tif",
        "st/{}.h5ad",
        "metadata/{}.json",
        TRANSCRIPTS,
        *(f"{name}.parquet" for name in CELLS.values()),
    ]
    wanted = [name.format(sample) for name in names for sample in samples]
    try:
        return Path(snapshot_download(HUB, repo_type="dataset", allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{', '.join(samples)} cannot be downloaded from {HUB}: {reason}",
            f"Accept the conditions on the hub's page of {HUB} and log in with `hf auth login`; or download elsewhere "
            "and name the folder with --hest DIR.",
        ) from error


def read_hest_spots(hest: Hest) -> tuple[SpotTable, Counts, np.ndarray | None]:
    """Read the spots of st/ID.h5ad with their counts, in level-0 pixels, and their places (n, 2) in Visium's array."""
    data = open_anndata(hest.spots)
    if "spatial" not in data.obsm:
        raise InputError(f'{hest.spots} has no obsm["spatial"]', "Download it again.")
    xy = np.asarray(data.obsm["spatial"], np.float64)
    counts = counts_of(hest.spots, data)
    flags = data.obs["in_tissue"].astype(float).to_numpy() == 1 if "in_tissue" in data.obs else np.ones(len(xy), bool)
    array = None
    if hest.technology == "Visium" and {"array_row", "array_col"} <= set(data.obs.columns):
        array = data.obs[["array_row", "array_col"]].astype(int).to_numpy()
    ids = identifiers(hest.spots, data.obs_names, noun="spot")
    return SpotTable(ids, xy[:, 0], xy[:, 1], flags), counts, array


def believed_mpp(hest: Hest, *, pitch_px: float | None) -> tuple[float, str]:
    """Microns a pixel by the evidence, and a sentence where the metadata contradicts it or itself.

    Evidence is, the better first: transcripts given in microns and in pixels; the known pitch of the array, `pitch_px`
    pixels wide. Without any the size that HEST estimated is taken (its own choice), else the one the file had embedded.

    Raises InputError where nothing says a pixel size.
    """
    said = {name: _positive(hest.metadata.get(f"pixel_size_um_{name}")) for name in ("estimated", "embedded")}
    sizes = [size for size in said.values() if size is not None]
    evidence, source = _by_transcripts(hest), "the transcripts"
    known_pitch = PITCHES_UM.get(hest.technology)
    if evidence is None and pitch_px and known_pitch:
        evidence, source = known_pitch / pitch_px, "the pitch of the spots"
    if evidence is None and not sizes:
        raise InputError(f"{hest.metadata_file} says no pixel size", "Add --mpp.")
    if evidence is None:
        mpp = sizes[0]
    else:  # what the metadata says to more digits, where the evidence bears it out
        mpp = min(sizes, key=lambda size: abs(size - evidence), default=evidence)
        mpp = mpp if abs(mpp / evidence - 1) <= AGREE else evidence
    if all(abs(size / mpp - 1) <= AGREE for size in sizes):
        return mpp, ""
    says = ", ".join(f"{size:.4g} um a pixel ({name})" for name, size in said.items() if size is not None)
    proof = f"{source} say {evidence:.4g}" if evidence is not None else "nothing else tells"
    return mpp, f"the metadata of {hest.id} says {says}; {proof}: {mpp:.4g} is used"


def _positive(value: object) -> float | None:
    try:
        size = float(value) if isinstance(value, (int, float, str)) else np.nan
    except ValueError:
        return None
    return size if np.isfinite(size) and size > 0 else None


def _by_transcripts(hest: Hest) -> float | None:
    """Microns a pixel from a hundred thousand transcripts given in both."""
    if hest.transcripts is None:
        return None
    columns = [*PIXELS, *MICRONS]
    if not set(columns) <= set(column_names(hest.transcripts)):
        return None
    with readable(hest.transcripts, "transcripts"), pq.ParquetFile(hest.transcripts) as file:
        first: Iterator[pa.RecordBatch] = file.iter_batches(100_000, columns=columns)
        frame = next(first).to_pandas().astype(float)
    spread = frame - frame.mean()
    pixels, microns = spread[list(PIXELS)].to_numpy(), spread[list(MICRONS)].to_numpy()
    # Whatever the rotation between the two, the spread of the points about their middle scales alike.
    return float(np.sqrt((microns**2).sum() / (pixels**2).sum())) if (pixels**2).sum() > 0 else None
