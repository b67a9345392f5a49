"""How conflicts of a merge look, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gsync.cli.app import App
from gsync.cli.output import key_json, style
from gsync.objects.model import FILES
from gsync.paths import show_path

if TYPE_CHECKING:
    from gsync.sync.resolving import CellClash
    from gsync.views.conflicts import StoredConflict as Kept


def conflict_json(kept: Kept, clashes: Sequence[CellClash] = ()) -> dict[str, Any]:
    """Return one conflict as JSON documents have it."""
    document: dict[str, Any] = {
        "collection": kept.collection,
        "key": None if kept.key is None else _key_json(kept),
        "kind": kept.kind,
        "resolution": kept.resolution,
    }
    if clashes:
        from gsync.views.rows.texts import json_cell

        document["cells"] = {
            clash.column: {
                "base": json_cell(clash.type, clash.base),
                "ours": json_cell(clash.type, clash.ours),
                "theirs": json_cell(clash.type, clash.theirs),
            }
            for clash in clashes
        }
    return document


def _key_json(kept: Kept) -> Any:
    assert kept.key is not None
    if kept.collection == FILES:
        return key_json(kept.key)
    from gsync.views.rows.keys import decode_key
    from gsync.views.rows.show import guess_type
    from gsync.views.rows.texts import json_cell

    return [json_cell(guess_type(cell), cell) for cell in decode_key(kept.key)]


def conflict_lines(app: App, found: Iterable[tuple[Kept, Sequence[CellClash]]]) -> Iterator[str]:
    """Yield a line a conflict, and below a row the cells that clash, as both sides have them."""
    for kept, clashes in found:
        state = style(app, f"resolved: {kept.resolution}", "green") if kept.resolution else ""
        state = state or style(app, kept.kind, "red")
        yield f"{state}  {shown_conflict(kept)}"
        if kept.resolution is None and clashes:
            from gsync.views.rows.show import show_cell

            for clash in clashes:
                ours, theirs = (show_cell(c, clash.type) for c in (clash.ours, clash.theirs))
                yield f"    {clash.column}: ours {ours}, theirs {theirs}"


def shown_conflict(kept: Kept) -> str:
    """Return what is in conflict, as messages name it."""
    if kept.key is None:
        return f"{kept.collection} as a whole"
    if kept.collection == FILES:
        return show_path(kept.key)
    from gsync.views.rows.show import show_row

    return show_row(f"{kept.collection} ", kept.key)
