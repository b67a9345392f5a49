"""Tables of figures, as campaigns print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click


def show_table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below a head, each column as wide as it needs; numbers to the right."""
    table = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in table) for at in range(len(head))]
    for row in table:
        cells = [
            cell.rjust(width) if cell.replace(".", "").isdecimal() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def show_failures(failures: Sequence[str], shown_max: int = 20) -> None:
    """Print the first failures, one a line."""
    for failure in failures[:shown_max]:
        click.echo(f"FAILED: {failure}")
    if len(failures) > shown_max:
        click.echo(f"... and {len(failures) - shown_max} more")
