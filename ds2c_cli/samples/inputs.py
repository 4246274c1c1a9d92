"""The files of one sample, opened once for all that is done with them: checked, hashed, read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from ..errors import InputError
from ..files import file_hash
from ..io.hest import Hest, open_hest
from ..io.slides import Slide, open_slide
from ..io.visium import visium_files
from ..io.xenium import Xenium, open_xenium
from ..records import SourceFile
from .sources import Sources


class SampleInputs:
    """What `sources` name, opened when it is first asked for and kept.

    Every property raises InputError for a file that is missing, cut short or of a kind that is not read.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    @cached_property
    def slide(self) -> Slide:
        """Open the slide."""
        return open_slide(self.sources.slide)

    @cached_property
    def xenium(self) -> Xenium | None:
        """Find the files of a Xenium run; None where none was named."""
        folder = self.sources.xenium
        return (
            open_xenium(folder, boundaries=self.sources.boundaries, alignment=self.sources.alignment)
            if folder is not None
            else None
        )

    @cached_property
    def hest(self) -> Hest | None:
        """Find the files of a HEST-1k sample; None where none was named."""
        folder = self.sources.hest
        return open_hest(folder, self.sources.hest_id) if folder is not None else None

    @cached_property
    def hest_cells(self) -> Path | None:
        """Choose the segmentation of a HEST sample: the one named, else the first there is; None for pseudo-cells."""
        named = self.sources.cells
        if self.hest is None or self.sources.on_grid:
            return None
        if named:
            if named in self.hest.cells:
                return self.hest.cells[named]
            if Path(named).is_file():
                return Path(named)
        elif self.hest.cells:
            return next(iter(self.hest.cells.values()))
        has = ", ".join(self.hest.cells) or "none"
        raise InputError(
            f"{self.hest.id} has no segmentation {named or 'here'} (it has: {has})",
            "Download xenium_seg/ or cellvit_seg/, or add --cells FILE or --cells grid:20.",
        )

    def files(self, *, transcripts: bool) -> dict[str, Path]:
        """List all files the sample is made from but its slide, by what they are.

        Args:
            transcripts: Whether a Xenium run's transcripts are counted, so that they are one of its files.

        Raises:
            InputError: A folder lacks a file.
        """
        sources, run, hest = self.sources, self.xenium, self.hest
        files = {"counts": sources.counts, "spots": sources.spots, "cells": sources.cells_file()}
        if sources.visium is not None:
            files |= {f"visium {path.name}": path for path in visium_files(sources.visium, raw=sources.raw)}
        if run is not None:
            files |= {f"xenium {path.name}": path for path in run.files}
            files |= {"xenium transcripts": run.transcripts if transcripts else None}
        if hest is not None:
            files |= {
                "hest metadata": hest.metadata_file,
                "hest spots": hest.spots,
                "hest cells": self.hest_cells,
                "hest transcripts": hest.transcripts,
            }
        return {kind: path for kind, path in files.items() if path is not None}

    def hashed(self, *, transcripts: bool) -> dict[str, SourceFile]:
        """Hash these files, whole."""
        files = self.files(transcripts=transcripts)
        return {kind: SourceFile(path=str(path), sha256=file_hash(path)) for kind, path in files.items()}
