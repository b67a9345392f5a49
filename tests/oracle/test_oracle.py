"""The vectors are what the oracle makes, and the oracle accepts and refuses what they say."""

import json
from itertools import pairwise

import pytest
from blake3 import blake3
from oracle import chunks, manifests
from oracle import make_vectors as mv
from oracle import oracle as o


def load(name):
    return json.loads((o.VECTORS / f"{name}.json").read_text())


def refused(check, *args, **more):
    with pytest.raises(o.Bad):
        check(*args, **more)


@pytest.mark.parametrize("name", mv.FILES)
def test_files_are_what_the_oracle_makes(name):
    text = (o.VECTORS / f"{name}.json").read_text()
    assert text == mv.rendered(name)
    assert len(text) < 200_000


CHECKS = {
    "encoding": o.decode,
    "manifest": manifests.check_manifest,
    "paths": manifests.check_path,
    "file-entry": manifests.check_file_entry,
    "map": lambda body: o.check_node(body, True, False),
}


@pytest.mark.parametrize("name", CHECKS)
def test_accept_and_reject(name):
    vectors = load(name)
    for v in vectors["accept"] if name != "map" else []:
        data = bytes.fromhex(v["hex"])
        CHECKS[name](data)
        if name != "paths":
            assert o.encode(o.decode(data)) == data
    for v in vectors["reject"]:
        refused(CHECKS[name], bytes.fromhex(v["hex"]))


def test_ids_and_integers():
    for v in load("ids")["accept"]:
        assert o.object_id(v["kind"], bytes.fromhex(v["hex"])).hex() == v["id"]
    for v in load("encoding")["accept"]:
        assert "integer" not in v or o.decode(bytes.fromhex(v["hex"])) == int(v["integer"])


def test_trees_sets_and_large_manifests():
    for v in load("map")["reject_trees"]:
        bodies = [bytes.fromhex(b) for b in v["bodies"]]
        refused(o.check_tree, {o.object_id(3, b): b for b in bodies}, bytes.fromhex(v["root"]))
    for v in load("paths")["sets"]:
        paths = {bytes.fromhex(p) for p in v["paths"]}
        manifests.check_paths(paths) if v["valid"] else refused(manifests.check_paths, paths)
    for v in load("manifest")["big"]:
        body = mv.big(v["message"], v["extra"], v["collections"])
        assert len(body) == v["bytes"]
        manifests.check_manifest(body) if v["valid"] else refused(manifests.check_manifest, body)


def content(pieces):
    out = b""
    for p in pieces:
        unit = bytes.fromhex(p.get("repeat", "00"))
        n = p["bytes"]
        out += (
            blake3(p["xof"].encode()).digest(length=n)
            if "xof" in p
            else (unit * (n // len(unit) + 1))[:n]
        )
    return out


def test_chunking_contents():
    vectors = load("chunking")
    assert [int(x, 16) for x in vectors["gear"]] == chunks.gear()
    assert (int(vectors["mask_before_average"], 16), int(vectors["mask_from_average"], 16)) == (
        chunks.S,
        chunks.L,
    )
    for v in vectors["contents"]:
        data = content(v["content"])
        ends = chunks.cut(data)
        cuts = [data[a:b] for a, b in pairwise([0, *ends])]
        row = [o.Ref(1, o.object_id(1, c), len(c)) for c in cuts]
        assert (len(data), len(ends), ends[:40]) == (v["bytes"], v["count"], v["first_ends"]), v[
            "description"
        ]
        assert o.object_id(1, data).hex() == v["content_id"]
        assert blake3(b"".join(e.to_bytes(8, "big") for e in ends)).hexdigest() == v["ends_digest"]
        assert blake3(b"".join(r.id for r in row)).hexdigest() == v["ids_digest"]
        assert [r.id.hex() for r in row[:1] + row[-1:]] == [
            x for x in (v["first_id"], v["last_id"]) if x
        ]
        root = chunks.build_list(row) if len(data) > 131072 else (None, None)
        assert (root[0] and root[0].id.hex(), root[1]) == (v["root"], v["root_level"]), v[
            "description"
        ]


def test_chunking_lists():
    vectors = load("chunking")
    for v in vectors["lists"]:
        c = v["chunks"]
        made = [
            blake3(f"{c['seed']} {i % c['distinct']}".encode()).digest() for i in range(c["count"])
        ]
        root, _, counts = chunks.build_list([o.Ref(1, i, 8192 + 256 * i[0]) for i in made])
        assert (root.id.hex(), root.length, counts) == (
            v["root"],
            v["bytes"],
            v["nodes_per_level"],
        ), v["description"]
    for v in vectors["reject_nodes"]:
        refused(chunks.check_list_node, bytes.fromhex(v["body"]))
    for v in vectors["reject_trees"]:
        store = {o.object_id(2, b): b for b in map(bytes.fromhex, v["bodies"])}
        refused(chunks.check_list_tree, store, o.Ref(2, bytes.fromhex(v["root"]), v["bytes"]))
