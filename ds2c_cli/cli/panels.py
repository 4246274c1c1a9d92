"""Show a command's options in panels, in plain text; Typer does so only with Rich, which the help does not import."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

RUN, ENCODER = "Run", "Encoder"  # panels of the options that several commands share


class PanelCommand(TyperCommand):
    """A command whose help has a section per `rich_help_panel`, in the order in which they are named, Run the last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and then the panels."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            if param.param_type_name == "argument":
                panel = "Arguments"
            else:
                panel = RUN if param.name == "help" else getattr(param, "rich_help_panel", None) or "Options"
            sections.setdefault(panel, []).append(record)
        sections[RUN] = sections.pop(RUN)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
