"""`personascope doctor`: what is installed, what the machine has, and what is missing with the command that fixes it."""

from __future__ import annotations

from interp.cli.arguments import Output, print_json
from interp.reports.installation import gather, print_table


def report(arguments: Output) -> int:
    """Print the report as a table, or as JSON; returns 0 when nothing is missing, else 1."""
    findings = gather()
    if arguments.as_json:
        print_json(findings.as_json())
    else:
        print_table(findings)
    return 1 if findings.missing() else 0
