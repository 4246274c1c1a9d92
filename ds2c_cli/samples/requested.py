"""Find which samples are asked for: one slide, those of a HEST-1k folder, or those of a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..errors import UsageError
from ..io.hest import download_hest
from ..settings import Geometry
from .manifest import Request, hest_requests, read_manifest
from .sources import Sources


def requested(
    sources: Sources,
    geometry: Geometry,
    *,
    slide: Path | None,
    manifest: Path | None,
    hest: str,
    ids: Sequence[str],
    sample: str,
    donor: str,
    cohort: str,
) -> list[Request]:
    """List the samples to prepare.

    Args:
        sources: What one slide's sample is made from, or what all samples of HEST share.
        geometry: Checked against every row of a manifest.
        slide: The slide, of one sample.
        manifest: A table of samples, which has a column for everything else.
        hest: A HEST-1k folder, or hf to download the samples `ids`.
        ids: Samples of HEST; all of the folder by default.
        sample: Name of the one slide's sample.
        donor: Who the slides are from.
        cohort: The study they belong to.

    Raises:
        UsageError: Not one of slide, manifest and hest is given, or options that do not go together.
        InputError: The manifest has problems, or HEST lacks a sample.
    """
    if (slide is not None) + bool(hest) + (manifest is not None) != 1:
        raise UsageError("one of SLIDE, --hest and --manifest says what to prepare", "See ds2c prepare --help.")
    if (ids and not hest) or (hest == "hf" and not ids):
        raise UsageError("--id names samples of --hest, and --hest hf needs it", "Write --hest DIR --id NCBI856.")
    if sample and slide is None:
        raise UsageError("--sample names the sample of one SLIDE", "Leave it out.")
    if manifest is not None:
        own = [
            field.name
            for field in fields(Sources)
            if getattr(sources, field.name) != getattr(Sources(Path()), field.name)
        ]
        own += [name for name, value in (("donor", donor), ("cohort", cohort)) if value]
        if own:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in own)
            raise UsageError(f"{options} beside --manifest, which has a column for it", "Fill in the column.")
        return read_manifest(manifest, geometry)
    if hest:
        folder = download_hest(ids) if hest == "hf" else Path(hest)
        return hest_requests(folder, ids, shared=sources, donor=donor, cohort=cohort)
    return [Request(sources, sample, donor, cohort)]
