"""The vectors of page 13, `merge.json`, each with the sides as given and swapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gsync.changes import Change, MergeConflict
from gsync.errors import Invalid
from gsync.maps.merge import merge_maps
from gsync.maps.omap import build_map, edit_map, list_entries
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind, ObjectId, blob_id
from gsync.store.memory import MemoryStore
from gsync.transfer.history import merge_base
from gsync.views.conflicts import decode_conflict, encode_conflict, encode_conflicts, store_conflict
from gsync.views.files import decode_entry
from gsync.views.mergefiles import FileMerger, find_path_conflicts
from gsync.views.rows.merge import RowMerger, merge_schemas
from gsync.views.rows.policies import Policies
from gsync.views.rows.schema import decode_schema
from gsync.views.textmerge import merge_lines

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "spec" / "vectors" / "merge.json").read_text()
)


def cases(field: str) -> list[Any]:
    return [pytest.param(case, id=case["description"]) for case in VECTORS[field]]


def read(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


@pytest.mark.parametrize("case", cases("accept"))
def test_accepted(case: dict[str, str]) -> None:
    """An entry of `conflicts` decodes, and encodes to the same bytes again."""
    entry = bytes.fromhex(case["key"]), bytes.fromhex(case["hex"])
    assert encode_conflict(decode_conflict(*entry)) == entry


@pytest.mark.parametrize("case", cases("reject"))
def test_refused(case: dict[str, str]) -> None:
    """Any other raises Invalid."""
    with pytest.raises(Invalid):
        decode_conflict(bytes.fromhex(case["key"]), bytes.fromhex(case["hex"]))


@pytest.mark.parametrize("case", cases("lines"))
def test_lines(case: dict[str, str | None]) -> None:
    """Texts merge to the text given, or not at all."""
    base, ours, theirs = (str(case[side]).encode() for side in ("base", "ours", "theirs"))
    merged = case["merged"]
    expected = None if merged is None else merged.encode()
    assert merge_lines(base, ours, theirs) == merge_lines(base, theirs, ours) == expected


@pytest.mark.parametrize("case", cases("trees"))
def test_trees(case: dict[str, Any]) -> None:
    """Trees merge to the tree given, with those conflicts; swapped, all else is the same."""
    merged, conflicts = merge_trees(case["base"], case["ours"], case["theirs"])
    assert merged == case["merged"]
    assert [[key.hex(), value.hex()] for key, value in encode_conflicts(
        store_conflict("files", conflict) for conflict in conflicts
    )] == case["conflicts"]  # fmt: skip
    other, swapped = merge_trees(case["base"], case["theirs"], case["ours"])
    assert [conflict.swapped() for conflict in conflicts] == swapped
    open_paths = {conflict.key.decode() for conflict in conflicts}
    settled = [{p: v for p, v in tree.items() if p not in open_paths} for tree in (merged, other)]
    assert settled[0] == settled[1]


def merge_trees(*sides: dict[str, str]) -> tuple[dict[str, str], list[MergeConflict]]:
    store = MemoryStore()
    for content in VECTORS["blobs"]:
        store.put(Kind.BLOB, content.encode())
    base, ours, theirs = (
        build_map(store, sorted((p.encode(), bytes.fromhex(v)) for p, v in side.items()))
        for side in sides
    )
    merger = FileMerger(lambda ref: store.get(ref.kind, ref.oid), store.put)
    walked = merge_maps(store, base, ours, theirs, merger.combine)
    outcomes = find_path_conflicts(store, base, ours, walked)
    root = edit_map(store, ours, [(o.key, o.new) for o in outcomes if isinstance(o, Change)])
    merged = {key.decode(): value.hex() for key, value in list_entries(store, root)}
    return merged, [o for o in outcomes if isinstance(o, MergeConflict)]


@pytest.mark.parametrize("case", cases("rows"))
def test_rows(case: dict[str, str | None]) -> None:
    """Rows merge to the row given, are deleted, or conflict as given."""
    schema = decode_schema(bytes.fromhex(VECTORS["schema"]))

    def refuse(content: Reference | bytes) -> Any:
        raise AssertionError("nothing here is long enough to be spilled")

    merger = RowMerger(schema, schema, schema, schema, refuse, refuse)
    base, ours, theirs = (read(case[side]) for side in ("base", "ours", "theirs"))
    found, swapped = (
        merger.combine(b"k", base, ours, theirs),
        merger.combine(b"k", base, theirs, ours),
    )
    assert found.conflict == case.get("conflict")
    assert found.value == swapped.value == read(case.get("merged"))


@pytest.mark.parametrize("case", cases("policies"))
def test_policies(case: dict[str, Any]) -> None:
    """Rows of tables with policies merge to the row given, or conflict as given."""
    schema = decode_schema(bytes.fromhex(VECTORS["policy schema"]))
    policies = Policies(case["merge"], tuple(map(tuple, case["together"])))

    def refuse(content: Reference | bytes) -> Any:
        raise AssertionError("nothing here is long enough to be spilled")

    merger = RowMerger(schema, schema, schema, schema, refuse, refuse, policies)
    base, ours, theirs = (read(case[side]) for side in ("base", "ours", "theirs"))
    found = merger.combine(b"k", base, ours, theirs)
    assert (found.conflict, found.value) == (case.get("conflict"), read(case.get("merged")))


@pytest.mark.parametrize("case", cases("schemas"))
def test_schemas(case: dict[str, str | None]) -> None:
    """Schemas merge to the schema given, or not at all."""
    base, ours, theirs, merged = (
        None if body is None else decode_schema(body)
        for body in map(read, (case[side] for side in ("base", "ours", "theirs", "merged")))
    )
    assert ours is not None
    assert theirs is not None
    assert merge_schemas(base, ours, theirs) == merge_schemas(base, theirs, ours) == merged


@pytest.mark.parametrize("case", cases("bases"))
def test_bases(case: dict[str, Any]) -> None:
    """Two manifests have the base given."""
    store = MemoryStore()
    for manifest in case["manifests"]:
        store.put(Kind.MANIFEST, bytes.fromhex(manifest))
    ours, theirs = (ObjectId(bytes.fromhex(case[side])) for side in ("ours", "theirs"))
    assert merge_base(store, ours, theirs) == merge_base(store, theirs, ours) == read(case["base"])


def test_contents_of_the_trees_are_there() -> None:
    """Each content that a tree of the vectors names is among the blobs."""
    ids = {blob_id(content.encode()) for content in VECTORS["blobs"]}
    for case in VECTORS["trees"]:
        for side in ("base", "ours", "theirs", "merged"):
            for value in case[side].values():
                ref = decode_entry(bytes.fromhex(value)).ref
                assert ref is None or ref.oid in ids
