"""Many samples at once: a table with a row per sample, or ids of a collection, all checked before work starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError
from ..io.cells import READERS as CELL_READERS
from ..io.counts import READERS as COUNT_READERS
from ..io.hest import hest_ids, open_hest
from ..io.spatialdata import is_spatialdata
from ..io.tables import TABLES, column_names, listed, read_columns, suffix_of
from ..project import Workspace
from ..settings import Geometry
from .inputs import SampleInputs
from .prepare import Prepared, prepare, sample_name
from .sources import Sources

PATHS = ("slide", "counts", "spots", "visium", "xenium", "alignment", "hest")
FLAGS = ("raw", "keep_matching", "trust_coordinates")
TRUTH = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
COLUMNS = ("sample", "donor", "cohort", *(field.name for field in fields(Sources)))
SUFFIXES = {"counts": COUNT_READERS, "spots": TABLES, "cells": CELL_READERS}


@dataclass(frozen=True)
class Request:
    """One sample to prepare."""

    sources: Sources
    sample: str = ""
    donor: str = ""
    cohort: str = ""

    @property
    def name(self) -> str:
        """What the sample will be called."""
        return sample_name(self.sample or self.sources.slide.name.split(".")[0])


def read_manifest(path: Path, geometry: Geometry) -> list[Request]:
    """Read the samples of a CSV, TSV or Parquet table.

    Its columns are the fields of `Sources` and sample, donor, cohort. Empty fields are left to the default; paths are
    as seen from the table's folder. Raises InputError that lists every problem with its row: unknown columns, names
    used twice or missing, files that are not there or of no known format, slides that cannot be opened or do not say
    their pixel size, sources that exclude or need one another.
    """
    suffix_of(path, TABLES, what="manifests")
    header = column_names(path)
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or not {"slide", "hest"} & set(header):
        what = f"has columns that are not known: {listed(unknown)}" if unknown else "has no column slide"
        raise InputError(f"{path} {what}", f"Columns are {', '.join(COLUMNS)}.")
    frame = read_columns(path, header).fillna("").astype(str)
    if frame.empty:
        raise InputError(f"{path} has no rows", "Write a row a sample.")
    rows = [
        (f"row {number}", {str(key): str(value).strip() for key, value in values.items() if str(value).strip()})
        for number, values in enumerate(frame.to_dict("records"), 2)  # as a spreadsheet counts: the header is row 1
    ]
    return requests_of(rows, path=path, geometry=geometry)


def requests_of(rows: Sequence[tuple[str, dict[str, str]]], *, path: Path, geometry: Geometry) -> list[Request]:
    """Make samples from what each is called in messages and its fields that are filled in, as text.

    Paths are as seen from the folder of the file `path`. Raises InputError that lists every problem.
    """
    requests: list[Request] = []
    problems: list[str] = []
    first_of: dict[str, str] = {}
    for place, found in rows:
        said = len(problems)

        def tell(problem: str, place: str = place) -> None:
            problems.append(f"{place}: {problem}")

        request = _request(found, folder=path.parent, tell=tell)
        if request is None:
            continue
        _check(request, geometry=geometry, tell=tell)
        if len(problems) == said:
            first = first_of.setdefault(request.name, place)
            if first != place:
                tell(f"the sample {request.name} is in {first} already; name it in a column sample")
        requests.append(request)
    if problems:
        raise InputError(
            f"{path} has {len(problems):,} problem{'s' if len(problems) > 1 else ''}; nothing was prepared:\n  "
            + "\n  ".join(problems),
            "Correct the rows and run it again.",
        )
    return requests


def hest_requests(folder: Path, ids: Sequence[str], *, shared: Sources, donor: str, cohort: str) -> list[Request]:
    """Find samples of a HEST-1k folder by their ids, all of it without any.

    The patient is the donor where HEST names one. `shared` holds what is the same for all. Raises InputError for an id
    that is not there.
    """
    requests = []
    for name in ids or hest_ids(folder):
        hest = open_hest(folder, name)
        here = {field.name: getattr(shared, field.name) for field in fields(Sources)}
        sources = Sources(**{**here, "slide": hest.slide, "hest": folder, "hest_id": name})
        requests.append(Request(sources, name, donor or hest.donor, cohort))
    return requests


def prepare_all(
    workspace: Workspace,
    requests: Sequence[Request],
    *,
    geometry: Geometry,
    dry_run: bool = False,
    force: bool = False,
) -> list[Prepared]:
    """Prepare samples one after another. One that cannot be prepared does not stop the others, and is told at the end.

    Raises InputError that names them, or the one's own error where there is only one sample.
    """
    done: list[Prepared] = []
    failed: list[str] = []
    for request in requests:
        try:
            done.append(
                prepare(
                    workspace,
                    request.sources,
                    geometry=geometry,
                    sample=request.sample,
                    donor=request.donor,
                    cohort=request.cohort,
                    dry_run=dry_run,
                    force=force,
                )
            )
        except (InputError, UsageError) as error:
            if len(requests) == 1:
                raise
            failed.append(f"{request.name}: {error.message}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(requests)} samples could not be prepared, the others are done:\n  "
            + "\n  ".join(failed),
            "Correct them and run the command again: what is done is left alone.",
        )
    return done


def _request(found: dict[str, str], *, folder: Path, tell: Callable[[str], None]) -> Request | None:
    """Read a row as a request; None, and a problem told, where a field is not what it should be."""
    values: dict[str, Any] = {key: text for key, text in found.items() if key not in ("sample", "donor", "cohort")}
    wrong = []
    for key in PATHS:
        if key in values:
            values[key] = folder / values[key]
    for key in FLAGS:
        if key in values:
            values[key] = TRUTH.get(values[key].lower())
            wrong += [f"{key} is {found[key]!r}, not 0 or 1"] if values[key] is None else []
    if "mpp" in values:
        try:
            values["mpp"] = float(values["mpp"])
        except ValueError:
            wrong.append(f"mpp is {values['mpp']!r}, not a number")
    cells = values.get("cells", "")
    if cells and ":" not in cells and "hest" not in values:
        values["cells"] = str(folder / cells)
    if "hest" in values and "hest_id" not in values:
        wrong.append("hest needs hest_id")
    elif "hest" in values:
        values.setdefault("slide", values["hest"] / "wsis" / f"{values['hest_id']}.tif")
    elif "slide" not in values:
        wrong.append("there is no slide")
    for problem in wrong:
        tell(problem)
    if wrong:
        return None
    sample = found.get("sample", values.get("hest_id", ""))
    return Request(Sources(**values), sample, found.get("donor", ""), found.get("cohort", ""))


def _check(request: Request, *, geometry: Geometry, tell: Callable[[str], None]) -> None:
    """Tell every problem of a request that shows without reading its files whole."""
    sources = request.sources
    inputs = SampleInputs(sources)

    def attempt(check: Callable[[], object]) -> None:
        try:
            check()
        except (InputError, UsageError) as error:
            tell(error.message)

    attempt(lambda: request.name)
    attempt(sources.check)
    for key, known in SUFFIXES.items():
        path = sources.cells_file() if key == "cells" else getattr(sources, key)
        if path is not None and not is_spatialdata(path):
            attempt(lambda path=path, known=known, key=key: suffix_of(path, known, what=key))  # type: ignore[misc]
    attempt(lambda: inputs.files(transcripts=geometry.pseudospot == "transcripts"))
    attempt(lambda: _check_slide(inputs))


def _check_slide(inputs: SampleInputs) -> None:
    slide, sources = inputs.slide, inputs.sources
    elsewhere = sources.visium or sources.xenium or sources.hest
    if slide.mpp is None and sources.mpp is None and elsewhere is None:
        raise InputError(f"{sources.slide} does not say its pixel size: fill in mpp")
