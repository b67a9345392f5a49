"""The vectors of pages 01, 03 and 04 against gsync; the others are run beside their code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from gsync.errors import Corrupt, Invalid
from gsync.maps.check import check_map
from gsync.maps.omap import build_map, count_entries
from gsync.maps.splitter import split_table
from gsync.objects.encoding import decode, encode
from gsync.objects.model import (
    BODY_BYTES_MAX,
    Internal,
    decode_manifest,
    decode_node,
    encode_internal,
    encode_leaf,
    encode_manifest,
)
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.paths import check_path, check_sorted_paths
from gsync.store.base import ObjectMissing
from gsync.store.memory import MemoryStore
from gsync.views.files import decode_entry, encode_entry

FOLDER = Path(__file__).parents[1] / "spec" / "vectors"
BYTES_MAX = 1 << 20


def load(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{name}.json").read_text()))


def cases(name: str, field: str) -> list[Any]:
    """Return the cases of one list of a file, each named by its description."""
    return [
        pytest.param(case, id=f"{name} {index} {case.get('description', '')}")
        for index, case in enumerate(load(name)[field])
    ]


def test_no_vector_file_is_forgotten() -> None:
    """Each file of vectors is run here, or read by name in a test beside the code it is about."""
    here = {"encoding", "file-entry", "ids", "manifest", "map", "map-split-table", "paths"}
    elsewhere = {
        "chunking": "objects/test_chunking.py",
        "merge": "views/test_merge_vectors.py",
        "rows": "views/rows/test_vectors_rows.py",
        "tarball": "test_tarball.py",
        "wire": "protocol/test_wire_vectors.py",
    }
    assert {path.stem for path in FOLDER.iterdir()} == here | elsewhere.keys()
    for name, test in elsewhere.items():
        assert f"{name}.json" in (Path(__file__).parent / test).read_text()


def recoded_node(body: bytes) -> bytes:
    node = decode_node(body)
    if isinstance(node, Internal):
        return encode_internal(node)
    return encode_leaf(node.keys, node.values)


def recoded_path(path: bytes) -> bytes:
    check_path(path)
    return path


RECODE: dict[str, Callable[[bytes], bytes]] = {
    "encoding": lambda body: encode(decode(body, BYTES_MAX)),
    "manifest": lambda body: encode_manifest(decode_manifest(body)),
    "paths": recoded_path,
    "file-entry": lambda body: encode_entry(decode_entry(body)),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, *c.values, id=c.id) for name in RECODE for c in cases(name, "accept")],
)
def test_accepted(name: str, case: dict[str, Any]) -> None:
    """What is to be accepted decodes, and encodes to the same bytes again."""
    body = bytes.fromhex(case["hex"])
    assert RECODE[name](body) == body
    if "integer" in case:
        assert decode(body, BYTES_MAX) == int(case["integer"])
    if "id" in case:
        assert object_id(Kind.MANIFEST, body).hex() == case["id"]


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, *c.values, id=c.id) for name in RECODE for c in cases(name, "reject")],
)
def test_refused(name: str, case: dict[str, Any]) -> None:
    """What is to be refused raises Invalid and nothing else."""
    with pytest.raises(Invalid):
        RECODE[name](bytes.fromhex(case["hex"]))


@pytest.mark.parametrize("case", cases("ids", "accept"))
def test_ids(case: dict[str, Any]) -> None:
    """A body of a kind has the id of the vectors, whether it is valid or not."""
    assert object_id(Kind(case["kind"]), bytes.fromhex(case["hex"])).hex() == case["id"]


def test_no_id_is_refused() -> None:
    """Any bytes have an id, so that list is empty; a case in it would need a test."""
    assert load("ids")["reject"] == []


def test_split_table() -> None:
    """The table that maps are cut by is the one of the vectors."""
    assert list(split_table()) == [int(weight, 16) for weight in load("map-split-table")["table"]]


# --- Maps ----------------------------------------------------------------------------


def entries_of(case: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries that a case describes; see `entries_rule` in the vectors."""
    for part in case["parts"]:
        first = part.get("first", 0)
        for i in range(first, first + part["count"]):
            key = f"{i:07d}".encode().ljust(part["key"]["bytes"], b"k")
            match part["value"]:
                case {"integer": "i"}:
                    value: int | bytes = i
                case {"zeros": length}:
                    value = bytes(length)
                case {"bin": length}:
                    value = blake3(key).digest(length=length)
                case other:
                    raise AssertionError(other)
            yield key, encode(value)


@pytest.mark.parametrize("case", cases("map", "accept"))
def test_maps(case: dict[str, Any]) -> None:
    """The entries of a case build its root, of its height, and pass the check of received maps."""
    store = MemoryStore()
    root = build_map(store, entries_of(case))
    assert root.hex() == case["root"]
    body = store.get(Kind.NODE, root)
    node = decode_node(body)
    assert (node.level if isinstance(node, Internal) else 0) + 1 == case["height"]
    assert recoded_node(body) == body
    assert check_map(store, root) == count_entries(store, root) == case["entries"]
    assert len(list(entries_of(case))) == case["entries"]
    levels = [{root}]
    for _ in case["nodes_per_level"][1:]:
        inner = [decode_node(store.get(Kind.NODE, oid)) for oid in levels[0]]
        levels.insert(0, {c for n in inner if isinstance(n, Internal) for c in n.children})
    assert sum(map(len, levels)) == case["different_nodes"]
    # Within one level keys differ, and so do the nodes.
    assert list(map(len, levels)) == case["nodes_per_level"]


@pytest.mark.parametrize("case", cases("map", "reject"))
def test_refused_nodes(case: dict[str, Any]) -> None:
    """A node that breaks the page by itself is no map, even if all its children were known."""
    body = bytes.fromhex(case["hex"])
    with pytest.raises((Invalid, Corrupt)):
        decode_node(body)
        store = MemoryStore()
        check_map(store, store.put(Kind.NODE, body))


@pytest.mark.parametrize("case", cases("map", "reject_trees"))
def test_refused_trees(case: dict[str, Any]) -> None:
    """A tree whose nodes do not belong together is no map."""
    store = MemoryStore()
    for body in case["bodies"]:
        store.put(Kind.NODE, bytes.fromhex(body))
    absent = case["description"] == "a child that is not there"
    with pytest.raises(ObjectMissing if absent else (Invalid, Corrupt)):
        check_map(store, ObjectId(bytes.fromhex(case["root"])))


# --- Sets of paths, large manifests --------------------------------------------------


@pytest.mark.parametrize("case", load("paths")["sets"])
def test_sets_of_paths(case: dict[str, Any]) -> None:
    """Keys are legal together, or one is a file and a directory at once."""
    paths = sorted(map(bytes.fromhex, case["paths"]))
    if case["valid"]:
        assert list(check_sorted_paths(paths)) == paths
    else:
        with pytest.raises(Invalid):
            list(check_sorted_paths(paths))


@pytest.mark.parametrize("case", load("manifest")["big"])
def test_large_manifests(case: dict[str, Any]) -> None:
    """A manifest up to its limits is accepted, and one beyond any is refused."""
    rows = [[f"{i:04d}", b"\1" * 32, 0, None, None] for i in range(case["collections"])]
    meta = ["", 0, "x" * case["message"], [["x", bytes(case["extra"])]]]
    body = encode([1, [], rows, meta])
    assert len(body) == case["bytes"]
    if case["valid"]:
        assert encode_manifest(decode_manifest(body)) == body
        assert len(body) <= BODY_BYTES_MAX[Kind.MANIFEST]
    else:
        with pytest.raises(Invalid):
            decode_manifest(body)
