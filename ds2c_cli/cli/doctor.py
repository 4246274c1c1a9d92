"""ds2c doctor: options, one call, print."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .console import console
from .options import EncoderOption, Session, shared


@shared("device", "project", "cache")
def command(
    session: Session,
    encoder: EncoderOption = None,
    hub: Annotated[bool, typer.Option("--hub", help="Ask the hub too: is it reached, which gated encoders.")] = False,
) -> None:
    """Check what ds2c needs on this machine; what is not ok comes with a remedy. Exit code 1 if a check fails."""
    from ..doctor import Asked, examine

    # torch makes its compiler's folder wherever it is imported, unless it is told of one that is there.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.sep)
    findings = examine(Asked(session.folder, session.given_cache, encoder or "", session.device, hub))
    console.table("Doctor", ("check", "state", "found"), [finding[:3] for finding in findings])
    for finding in findings:
        if finding.state != "ok":
            console.hint(f"{finding.check}: {finding.remedy}")
    states = {finding.state for finding in findings}
    worst = next(state for state in ("fail", "warn", "ok") if state in states)
    console.result([], {"state": worst, "checks": [finding._asdict() for finding in findings]})
    if worst == "fail":
        raise typer.Exit(1)
