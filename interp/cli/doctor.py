"""`personascope doctor`: what is installed, what the machine has, and what is missing with the command that fixes it."""

from __future__ import annotations

from functools import partial

from interp.cli.arguments import Output
from interp.reports.installation import as_json, gather, print_table


def report(arguments: Output) -> int:
    """Print the report as a table, or as JSON; returns 0 when nothing is missing, else 1."""
    findings = gather()
    arguments.report(as_json(findings), partial(print_table, findings))
    return int(any(item.fix for item in findings))
