"""What a sample is made from, as content and settings: equal recipes make equal samples."""

from __future__ import annotations

from dataclasses import dataclass

from .. import schema
from ..files import recipe_hash
from ..records import SourceFile
from ..settings import Geometry
from .inputs import SampleInputs
from .sources import Sources


@dataclass(frozen=True)
class Recipe:
    """All that a sample depends on: the content of its files, not the slide's path or their times."""

    sources: Sources
    slide_fingerprint: str
    files: dict[str, SourceFile]  # by what they are
    geometry: Geometry  # as it was declared
    donor: str
    cohort: str

    @classmethod
    def of(cls, inputs: SampleInputs, *, geometry: Geometry, donor: str, cohort: str) -> Recipe:
        """Hash the files of a sample; transcripts are among them where pseudo-spots count them."""
        fingerprint = inputs.slide.fingerprint()
        files = inputs.hashed(transcripts=geometry.pseudospot == "transcripts")
        return cls(inputs.sources, fingerprint, files, geometry=geometry, donor=donor, cohort=cohort)

    def hash(self) -> str:
        """Name the recipe."""
        sources = self.sources
        return recipe_hash(
            {
                "slide": self.slide_fingerprint,
                "sources": {kind: file.document() for kind, file in self.files.items()},
                "cells": sources.cells if sources.on_grid else "",
                "columns": (sources.x_column, sources.y_column, sources.id_column),
                "mpp": sources.mpp,
                "keep_matching": sources.keep_matching,
                "geometry": self.geometry.document(),
                "donor": self.donor,
                "cohort": self.cohort,
                "version": schema.SAMPLE_VERSION,
            }
        )
