"""Makes the vectors of spec/01, 03 and 04 with the oracle.

In tests/: python -m oracle.make_vectors [FOLDER]
"""

import json
import sys
from pathlib import Path

from blake3 import blake3
from oracle import oracle as o

E, Ref = o.encode, o.Ref
ID = {i: bytes([i]) * 32 for i in range(256)}


def vectors(description, accept, reject, **more):
    return {"format": 1, "description": description, **more, "accept": accept, "reject": reject}


def yes(description, data, **more):
    return {"description": description, "hex": data.hex(), **more}


def no(description, data, reason):
    return {"description": description, "hex": data.hex(), "reason": reason}


# --- ids ---


def ids():
    empty = {
        2: E([1, 0, [Ref(1, ID[7], 100000), Ref(1, ID[8], 100000)]]),
        3: E([1, 0, [], []]),
        4: E([1, [], [], ["", 0, "", []]]),
        5: E([1]),
        6: E([1]),
    }
    rows = [
        (1, b"", "empty blob"),
        (1, b"abc", "blob"),
        (1, bytes(1024), "blob of one BLAKE3 chunk"),
        (1, bytes(1025), "blob of two BLAKE3 chunks"),
    ]
    rows += [(k, b, f"kind {k}") for k, b in empty.items()]
    rows += [(k, b"\x91\x01", f"the same body as kind {k}") for k in range(1, 7)]
    return vectors(
        "The id of a body of each kind (01, section 2). For ids only the bytes count: some bodies "
        "are not "
        "valid for their kind.",
        [{**yes(d, b), "kind": k, "id": o.object_id(k, b).hex()} for k, b, d in rows],
        [],
    )


# --- encoding ---


def nest(n, inner=b"\xc0"):
    return b"\x91" * n + inner


def encoding():
    good = [
        ("nil", None),
        ("false", False),
        ("true", True),
        ("float 0.0", 0.0),
        ("float -0.0", -0.0),
        ("float 1.0", 1.0),
        ("infinity", float("inf")),
        ("-infinity", float("-inf")),
        ("the NaN", float("nan")),
        ("smallest subnormal", 5e-324),
        ("empty text", ""),
        ("text with NUL", "a\0b"),
        ("not normalized", "e\u0301"),
        ("U+10FFFF", "\U0010ffff"),
        ("U+FFFF", "\uffff"),
        ("empty array", []),
        ("mixed", [1, "a", b"a", None, [True]]),
    ]
    edges = [
        0,
        1,
        127,
        128,
        255,
        256,
        65535,
        65536,
        2**32 - 1,
        2**32,
        2**63 - 1,
        2**63,
        2**64 - 1,
        -1,
        -32,
        -33,
        -128,
        -129,
        -32768,
        -32769,
        -(2**31),
        -(2**31) - 1,
        -(2**63),
    ]
    accept = [yes(d, E(v)) for d, v in good] + [
        yes(f"integer {n}", E(n), integer=str(n)) for n in edges
    ]
    for n in (31, 32, 255, 256, 65535, 65536):
        if n < 60000:
            accept.append(yes(f"text of {n} bytes", E("x" * n)))
            accept.append(yes(f"bytes of {n} bytes", E(b"x" * n)))
    accept += [yes(f"array of {n} nils", E([None] * n)) for n in (15, 16)]
    accept += [
        yes("a value inside 32 arrays", nest(32)),
        yes("32 arrays, the innermost empty", nest(31, b"\x90")),
    ]
    accept += [yes(f"reference of kind {k}", E(Ref(k, ID[k], 5))) for k in range(1, 7)]
    accept.append(yes("reference with the largest length", E(Ref(1, ID[9], 2**63 - 1))))
    accept.append(yes("reference inside 32 arrays", nest(32, E(Ref(1, ID[9], 0)))))
    heads = [
        ("127 as uint 8", "cc7f"),
        ("0 as uint 8", "cc00"),
        ("255 as uint 16", "cd00ff"),
        ("65535 as uint 32", "ce0000ffff"),
        ("2^32 - 1 as uint 64", "cf00000000ffffffff"),
        ("5 as int 8", "d005"),
        ("128 as int 16", "d10080"),
        ("32768 as int 32", "d200008000"),
        ("2^31 as int 64", "d30000000080000000"),
        ("-1 as int 8", "d0ff"),
        ("-32 as int 8", "d0e0"),
        ("-128 as int 16", "d1ff80"),
        ("-32768 as int 32", "d2ffff8000"),
        ("-2^31 as int 64", "d3ffffffff80000000"),
        ("text of 3 as str 8", "d903616263"),
        ("text of 3 as str 16", "da0003616263"),
        ("text of 3 as str 32", "db00000003616263"),
        ("bytes of 1 as bin 16", "c5000161"),
        ("bytes of 1 as bin 32", "c60000000161"),
        ("array of 1 as array 16", "dc0001c0"),
        ("array of 1 as array 32", "dd00000001c0"),
    ]
    reject = [no(d, bytes.fromhex(h), "not the shortest form") for d, h in heads]
    reject += [
        no(d, bytes.fromhex(h) + b"x" * n, "not the shortest form")
        for d, h, n in [
            ("text of 32 as str 16", "da0020", 32),
            ("text of 255 as str 16", "da00ff", 255),
            ("bytes of 255 as bin 16", "c500ff", 255),
        ]
    ]
    reject += [
        no(d, bytes.fromhex(h), "NaN of other bits")
        for d, h in [
            ("NaN with sign", "cbfff8000000000000"),
            ("NaN with payload", "cb7ff8000000000001"),
            ("signalling NaN", "cb7ff0000000000001"),
        ]
    ]
    reject += [
        no(d, bytes.fromhex(h), "text that is not UTF-8")
        for d, h in [
            ("high surrogate", "a3eda080"),
            ("low surrogate", "a3edbfbf"),
            ("a pair of surrogates", "a6eda080edb080"),
            ("byte ff", "a1ff"),
            ("overlong /", "a2c0af"),
            ("above U+10FFFF", "a4f4908080"),
            ("cut short", "a2e282"),
            ("lone continuation", "a180"),
        ]
    ]
    reject += [
        no(d, bytes.fromhex(h), "type that is not allowed")
        for d, h in [
            ("empty map", "80"),
            ("map of one", "81a16101"),
            ("map 16", "de0000"),
            ("map 32", "df00000000"),
            ("float 32", "ca3f800000"),
            ("never used c1", "c1"),
            ("timestamp 32", "d6ff00000000"),
            ("timestamp 64", "d7ff" + "00" * 8),
            ("timestamp 96", "c70cff" + "00" * 12),
            ("fixext 1 of type 1", "d40100"),
            ("ext 8 of type 5", "c70105ff"),
            ("fixext 16 of type 1", "d801" + "00" * 16),
        ]
    ]
    ref = E(Ref(1, ID[9], 5))
    reject += [
        no("reference of type 2", b"\xc7\x29\x02" + ref[3:], "type that is not allowed"),
        no("reference of 40 bytes", b"\xc7\x28\x01" + ref[3:-1], "reference of a wrong size"),
        no("reference of 42 bytes", b"\xc7\x2a\x01" + ref[3:] + b"\0", "reference of a wrong size"),
        no("reference as ext 16", b"\xc8\x00\x29\x01" + ref[3:], "not the shortest form"),
        no("reference as ext 32", b"\xc9\x00\x00\x00\x29\x01" + ref[3:], "not the shortest form"),
        no(
            "reference of length 2^63",
            ref[:-8] + b"\x80" + bytes(7),
            "reference whose length is out of range",
        ),
        no(
            "reference of length 2^64 - 1",
            ref[:-8] + b"\xff" * 8,
            "reference whose length is out of range",
        ),
    ]
    reject += [
        no(f"reference of kind {k}", ref[:3] + bytes([k]) + ref[4:], "reference to an unknown kind")
        for k in (0, 7, 255)
    ]
    reject += [
        no("33 arrays, the innermost empty", nest(32, b"\x90"), "nested too deep"),
        no("a value inside 33 arrays", nest(33), "nested too deep"),
        no("nothing", b"", "no value"),
        no("two values", b"\xc0\xc0", "bytes after the value"),
        no("a byte after an array", b"\x90\0", "bytes after the value"),
    ]
    reject += [
        no(f"cut short: {h}", bytes.fromhex(h), "cut short")
        for h in (
            "cc",
            "cd00",
            "cb00000000",
            "a261",
            "c40261",
            "91",
            "dc0002c0",
            "ddffffffff",
            "c6ffffffff",
            "dbffffffff61",
        )
    ]
    reject.append(no("reference cut short", ref[:-1], "cut short"))
    return vectors(
        "Canonical msgpack (01, sections 3 and 4): what a reader accepts, and encodes to the same "
        "bytes again, and what it refuses.",
        accept,
        reject,
    )


# --- maps ---

RULE = (
    "Entry i of a part {count, key, value} with i from 0: the key is the decimal of i with 7 "
    "digits in ASCII, padded with the byte 'k' at the end to key.bytes (if more than 7); the "
    "value is the canonical msgpack of value: {integer: 'i'}: i itself, {bin: n}: n bytes of "
    "BLAKE3's extended output over the key, {zeros: n}: n zero bytes as bin. first, if there, "
    "is added to i. Parts follow each other. height is the root's level plus 1."
)


def entries(parts):
    out = []
    for p in parts:
        for i in range(p.get("first", 0), p.get("first", 0) + p["count"]):
            key = (b"%07d" % i).ljust(p["key"]["bytes"], b"k")
            v = p["value"]
            value = E(
                i
                if "integer" in v
                else bytes(v["zeros"])
                if "zeros" in v
                else blake3(key).digest(length=v["bin"])
            )
            out.append((key, value))
    return out


def part(count, value, key=7, first=0):
    return {"count": count, "first": first, "key": {"bytes": key}, "value": value}


def accept_maps():
    cases = [
        ("the empty map", []),
        ("one entry", [part(1, {"integer": "i"})]),
        ("two entries", [part(2, {"integer": "i"})]),
        ("100 small entries", [part(100, {"integer": "i"})]),
        ("1,000 small entries", [part(1000, {"integer": "i"})]),
        ("20,000 entries of 31 bytes, as of files", [part(20000, {"bin": 29})]),
        ("20,000 small entries", [part(20000, {"integer": "i"})]),
        ("keys of 4096 bytes", [part(60, {"integer": "i"}, 4096)]),
        ("keys of 4096 bytes: a tree of many levels", [part(400, {"zeros": 10}, 4096)]),
        ("the largest value, 65536 bytes", [part(5, {"zeros": 65533})]),
        (
            "a large entry between small ones",
            [
                part(20, {"integer": "i"}),
                part(1, {"zeros": 40000}, 7, 20),
                part(20, {"integer": "i"}, 7, 21),
            ],
        ),
        ("the largest key and the largest value", [part(3, {"zeros": 65533}, 4096)]),
    ]
    for size in (510, 511, 512, 513, 16383, 16384, 16385):
        cases.append(
            (f"entries of {size} bytes", [part(40, {"zeros": size - 7 - (2 if size < 263 else 3)})])
        )
    for size in (511, 512, 513):
        cases.append(
            (
                f"keys of 1000 bytes, first entry {size} bytes",
                [part(1, {"zeros": size - 10}), part(40, {"integer": "i"}, 1000, 1)],
            )
        )

    def low(i):  # a hash that ends a node of 511 bytes, if rule 1 did not forbid it
        h = blake3(b"\0%07d" % i, derive_key_context="gsync 2026 map split v1").digest()[:4]
        return int.from_bytes(h, "little") << 63 < (o.W[0] - o.W[511]) << 32

    i = next(filter(low, range(10**6)))
    cases += [
        (
            f"first entry of {n} bytes with a hash low enough to end",
            [part(1, {"zeros": n - 10}, 7, i), part(1, {"integer": "i"}, 7, i + 1)],
        )
        for n in (511, 512)
    ]
    out = []
    for d, parts in cases:
        e = entries(parts)
        root, store, counts = o.build_map(e)
        o.check_tree(store, root)
        out.append(
            {
                "description": d,
                "parts": parts,
                "entries": len(e),
                "bytes": sum(len(k) + len(v) for k, v in e),
                "root": root.hex(),
                "height": len(counts),
                "nodes_per_level": counts,
                "different_nodes": len(store),
            }
        )
    return out


def reject_nodes():
    """Nodes that are refused looking at them alone, whatever their place."""
    one, ok, ids2 = E(1), [b"a", b"b"], [ID[1], ID[2]]
    rows = [
        ("keys not sorted", [1, 0, [b"b", b"a"], [one, one]]),
        ("a key twice", [1, 0, [b"a", b"a"], [one, one]]),
        ("a longer key before its prefix", [1, 0, [b"ab", b"a"], [one, one]]),
        ("more keys than values", [1, 0, ok, [one]]),
        ("fewer keys than values", [1, 0, [b"a"], [one, one]]),
        ("version 2", [2, 0, ok, [one, one]]),
        ("version true", [True, 0, ok, [one, one]]),
        ("level -1", [1, -1, ok, [one, one]]),
        ("level false", [1, False, ok, [one, one]]),
        ("level 0.0", [1, 0.0, ok, [one, one]]),
        ("level 33", [1, 33, ok, ids2, [1, 1], [2, 2]]),
        ("leaf of six fields", [1, 0, ok, ids2, [1, 1], [2, 2]]),
        ("internal of four fields", [1, 1, ok, ids2]),
        ("empty internal node", [1, 1, [], [], [], []]),
        ("empty key", [1, 0, [b""], [one]]),
        ("key of 4097 bytes", [1, 0, [b"k" * 4097], [one]]),
        ("key as text", [1, 0, ["a"], [one]]),
        ("value not as bin", [1, 0, [b"a"], [1]]),
        ("empty value", [1, 0, [b"a"], [b""]]),
        ("value with a byte after it", [1, 0, [b"a"], [b"\x01\x01"]]),
        ("value not canonical", [1, 0, [b"a"], [b"\xcc\x01"]]),
        ("value that is a map", [1, 0, [b"a"], [b"\x80"]]),
        ("child id of 31 bytes", [1, 1, ok, [ID[1], ID[2][:31]], [1, 1], [2, 2]]),
        ("child id as reference", [1, 1, ok, [Ref(3, ID[1], 1), Ref(3, ID[2], 1)], [1, 1], [2, 2]]),
        ("last keys not sorted", [1, 1, [b"b", b"a"], ids2, [1, 1], [2, 2]]),
        ("a last key twice", [1, 1, [b"a", b"a"], ids2, [1, 1], [2, 2]]),
        ("rows shorter", [1, 1, ok, ids2, [1], [2, 2]]),
        ("bytes longer", [1, 1, ok, ids2, [1, 1], [2, 2, 2]]),
        ("rows 0", [1, 1, ok, ids2, [1, 0], [2, 2]]),
        ("bytes 0", [1, 1, ok, ids2, [1, 1], [0, 2]]),
        ("rows -1", [1, 1, ok, ids2, [-1, 1], [2, 2]]),
        ("rows of 2^63", [1, 1, ok, ids2, [1, 2**63], [2, 2]]),
        ("bytes of 2^63", [1, 1, ok, ids2, [1, 1], [2, 2**63]]),
        ("rows true", [1, 1, ok, ids2, [True, 1], [2, 2]]),
        ("internal of level true", [1, True, ok, ids2, [1, 1], [2, 2]]),
        ("rows as float", [1, 1, ok, ids2, [1.0, 1], [2, 2]]),
        ("bytes as nil", [1, 1, ok, ids2, [1, 1], [None, 2]]),
        ("seven fields", [1, 1, ok, ids2, [1, 1], [2, 2], []]),
        ("nil in place of keys", [1, 0, None, []]),
        (
            "an entry before the last ends the node: a level 0 above 16384",
            [1, 0, ok, [E(bytes(16400)), one]],
        ),
    ]
    long = [bytes([97 + i]) * 4096 for i in range(5)]
    rows.append(
        (
            "an entry before the last ends the node: level 1 above 16384",
            [1, 1, long, [ID[i] for i in range(5)], [1] * 5, [5000] * 5],
        )
    )
    leaf = E([1, 0, ok, [one, one]])
    out = [no(d, E(v), d) for d, v in rows] + [
        no("not an array", b"\x01", "layout"),
        no("a byte after the node", leaf + b"\0", "bytes after the value"),
        no("cut short", leaf[:-1], "cut short"),
        no(
            "keys as array 16",
            leaf.replace(b"\x92\xc4\x01a", b"\xdc\0\x02\xc4\x01a"),
            "not canonical",
        ),
    ]
    good = ends_pool(7, 600, 1)[0]
    out.append(
        no(
            "an entry before the last ends the node by its hash",
            E([1, 0, [good, good + b"x"], [E(bytes(600)), one]]),
            "an entry before the last ends the node",
        )
    )
    return out


def ends_pool(key_bytes, value_bytes, count, before=0):
    """The first keys that end a leaf in which they are alone."""
    size, i = key_bytes + len(E(bytes(value_bytes))), 0
    out: list[bytes] = []
    while len(out) < count:
        key = (b"%07d" % i).ljust(key_bytes, b"k")
        if o.ends(0, before, before + size, 1, key):
            out.append(key)
        i += 1
    return out


def reject_trees():
    """Trees refused although each body has its id: [(description, bodies, root)]."""
    out: list[dict] = []

    def tree(d, leaves, edit=lambda v: v, level=1, extra=()):
        bodies = [E([1, 0, ks, [E(bytes(n)) for n in ns]]) for ks, ns in leaves]
        size = [sum(map(len, ks)) + sum(len(E(bytes(n))) for n in ns) for ks, ns in leaves]
        root = E(
            edit(
                [
                    1,
                    level,
                    [ks[-1] for ks, _ in leaves],
                    [o.object_id(3, b) for b in bodies],
                    [len(ks) for ks, _ in leaves],
                    size,
                ]
            )
        )
        return out.append(
            {
                "description": d,
                "bodies": [b.hex() for b in (*bodies, *extra, root)],
                "root": o.object_id(3, root).hex(),
                "reason": d,
            }
        )

    a, b = ends_pool(7, 600, 2)
    two = [([a], [600]), ([b], [600])]
    tree("rows of a child are wrong", two, lambda v: [*v[:4], [1, 2], v[5]])
    tree("bytes of a child are wrong", two, lambda v: [*v[:5], [v[5][0] + 1, v[5][1]]])
    tree("last key of a child is wrong", two, lambda v: [*v[:2], [a, b + b"x"], *v[3:]])
    tree("a root with one child", two[:1])
    tree("level is two above the leaves", two, level=2)
    tree("a child that is not there", two, lambda v: [*v[:3], [v[3][0], ID[1]], *v[4:]])
    tree("a leaf that is not the last does not end by the rule", [([b"a"], [1]), ([b"b"], [1])])
    tree(
        "keys of the second leaf begin below the first leaf's last key",
        [([a], [600]), ([a[:-1], b], [1, 600])],
    )
    tree(
        "the empty leaf as a child",
        [([a], [600])],
        lambda v: [
            1,
            1,
            [a, a + b"x"],
            [v[3][0], o.object_id(3, E([1, 0, [], []]))],
            [1, 0],
            [v[5][0], 0],
        ],
        extra=[E([1, 0, [], []])],
    )
    pool = ends_pool(600, 100, 500)
    x, low, high = pool[0], pool[1], pool[-1]
    y = next(q for q in pool[2:-1] if o.ends(1, 640, 1280, 2, q))

    def leaf(k):
        return E([1, 0, [k], [E(bytes(100))]])

    def node(ks):
        n = len(ks)
        return E([1, 1, ks, [o.object_id(3, leaf(k)) for k in ks], [1] * n, [702] * n])

    left, right = node([x, y]), node([low, high])
    root = E([1, 2, [y, high], [o.object_id(3, left), o.object_id(3, right)], [2, 2], [1404, 1404]])
    bodies = [leaf(k) for k in (x, y, low, high)] + [left, right, root]
    d = (
        "the first leaf of the second internal node has keys below the last key of the first "
        "internal node"
    )
    out.append(
        {
            "description": d,
            "bodies": [b.hex() for b in bodies],
            "root": o.object_id(3, root).hex(),
            "reason": d,
        }
    )
    return out


def maps():
    return vectors(
        "Maps (03). accept: maps by a rule, their root and shape. reject: nodes refused alone. "
        "reject_trees: all bodies of a tree, refused as a whole.",
        accept_maps(),
        reject_nodes(),
        entries_rule=RULE,
        reject_trees=reject_trees(),
    )


# --- manifests ---


def manifest():
    def m(parents=(), collections=(), meta=("a", 0, "m", ())):
        return [1, list(parents), list(collections), list(meta)]

    def c(name="files", root=ID[1], count=0, schema=None, view=None):
        return [name, root, count, schema, view]

    good = [
        ("the smallest", m(meta=("", 0, "", ()))),
        ("16 parents", m([ID[i] for i in range(16)])),
        ("parents need no order", m([ID[2], ID[1]])),
        ("files", m((), [c()])),
        ("a table with schema and view", m((), [c("db/main/T_1", ID[1], 3, ID[2], ID[3]), c()])),
        ("author of 255 bytes", m(meta=("\u00e9" * 127 + "a", 0, "", ()))),
        ("time before 1970", m(meta=("", -1, "", ()))),
        ("the first time", m(meta=("", -(2**63), "", ()))),
        ("the last time", m(meta=("", 2**63 - 1, "", ()))),
        ("the largest count", m((), [c(count=2**63 - 1)])),
        ("an extra of 28 arrays", m(meta=("", 0, "", [["x", o.decode(nest(28))]]))),
        ("time of 2026", m(meta=("", 1790000000000000, "", ()))),
        ("name of 255 bytes", m((), [c("a" * 255)])),
        ("names with all characters", m((), [c("0a._-/_A.b-c/Z9")])),
        ("names sorted by bytes", m((), [c("a"), c("a-b"), c("a/b"), c("a0")])),
        ("an unknown extra", m(meta=("", 0, "", [["x", [1, [None, Ref(1, ID[4], 5)]]]]))),
        ("64 extras", m(meta=("", 0, "", [[f"{i:02d}", i] for i in range(64)]))),
        ("name of an extra of 255 bytes", m(meta=("", 0, "", [["x" * 255, 0]]))),
    ]
    accept = [yes(d, E(v), id=o.object_id(4, E(v)).hex()) for d, v in good]
    bad = [
        ("version 2", [2, [], [], ["", 0, "", []]]),
        ("version true", [True, [], [], ["", 0, "", []]]),
        ("three fields", [1, [], []]),
        ("five fields", m() + [None]),
        ("17 parents", m([ID[i] for i in range(17)])),
        ("a parent twice", m([ID[1], ID[2], ID[1]])),
        ("parent of 31 bytes", m([bytes(31)])),
        ("parent as reference", m([Ref(4, ID[1], 0)])),
        ("parent as text", m(["a" * 32])),
        ("collections not sorted", m((), [c("b"), c("a")])),
        ("a collection twice", m((), [c("a"), c("a")])),
        ("sorted by component, not by byte", m((), [c("a/b"), c("a-b")])),
        ("root of 33 bytes", m((), [c(root=bytes(33))])),
        ("root nil", m((), [c(root=None)])),
        ("count as float", m((), [c(count=1.0)])),
        ("count true", m((), [c(count=True)])),
        ("count -1", m((), [c(count=-1)])),
        ("count of 2^63", m((), [c(count=2**63)])),
        ("files with a schema", m((), [c(schema=ID[2])])),
        ("files with a view", m((), [c(view=ID[2])])),
        ("schema false", m((), [c("t", schema=False)])),
        ("schema of 31 bytes", m((), [c("t", schema=bytes(31))])),
        ("collection of four fields", m((), [c()[:4]])),
        ("collection of six fields", m((), [c() + [None]])),
    ]
    bad += [
        (f"name {n[:20]!r}", m((), [c(n)]))
        for n in (
            "",
            "Files",
            ".a",
            "-a",
            "_a",
            "a/",
            "/a",
            "a//b",
            "a/..",
            "a/.b",
            "a/-b",
            "a b",
            "files\n",
            "\u00e9",
            "a\0",
            "a\\b",
            "a" * 256,
        )
    ]
    bad += [
        (d, m(meta=v))
        for d, v in [
            ("author of 256 bytes", ("x" * 256, 0, "", ())),
            ("author of 128 characters of two bytes", ("\u00e9" * 128, 0, "", ())),
            ("author with NUL", ("a\0", 0, "", ())),
            ("author as bytes", (b"a", 0, "", ())),
            ("author nil", (None, 0, "", ())),
            ("time as float", ("", 0.0, "", ())),
            ("time true", ("", True, "", ())),
            ("time of 2^63", ("", 2**63, "", ())),
            ("message with NUL", ("", 0, "\0", ())),
            ("message as bytes", ("", 0, b"", ())),
            ("extras not sorted", ("", 0, "", [["b", 0], ["a", 0]])),
            ("an extra twice", ("", 0, "", [["a", 0], ["a", 1]])),
            ("empty name of an extra", ("", 0, "", [["", 0]])),
            ("name of an extra of 256 bytes", ("", 0, "", [["x" * 256, 0]])),
            ("name of an extra as bytes", ("", 0, "", [[b"x", 0]])),
            ("65 extras", ("", 0, "", [[f"{i:02d}", i] for i in range(65)])),
            ("extra of three", ("", 0, "", [["a", 0, 0]])),
        ]
    ]
    bad += [
        ("extras nil", [1, [], [], ["", 0, "", None]]),
        ("meta of three", [1, [], [], ["", 0, ""]]),
    ]
    return vectors(
        "Manifests (04, section 1). big: manifests by rule: no parents, author empty, time 0, "
        "that many collections named by their number from 0 in 4 digits, with root 01 (32 times) "
        "and count 0, a message of that many 'x', and one extra 'x' whose value is that many zero"
        " bytes as bin.",
        accept,
        [no(d, E(v), d) for d, v in bad]
        + [
            no("a byte after the manifest", E(m()) + b"\0", "bytes after the value"),
            no("cut short", E(m())[:-1], "cut short"),
            no("a body of nil", b"\xc0", "layout"),
            no(
                "an extra of 29 arrays",
                E(m())[:-1] + b"\x91\x92\xa1x" + nest(29),
                "nested too deep",
            ),
        ],
        big=[
            {"message": a, "extra": b, "collections": c, "bytes": len(big(a, b, c)), "valid": ok}
            for a, b, c, ok in [
                (65536, 0, 0, True),
                (65537, 0, 0, False),
                (60000, 202125, 0, True),
                (60000, 202126, 0, False),
                (0, 0, 4096, True),
                (0, 0, 4097, False),
            ]
        ],
    )


def big(message, extra, collections):
    rows = [[f"{i:04d}", ID[1], 0, None, None] for i in range(collections)]
    return E([1, [], rows, ["", 0, "x" * message, [["x", bytes(extra)]]]])


# --- paths ---


def paths():
    comp, u = b"c" * 255, lambda s: s.encode()
    good = [
        b"a",
        b"a/b",
        b"...",
        b"..a",
        b"a..",
        b".git",
        b"a b",
        b"a ",
        b"a.",
        b"a\nb",
        b"\xff\xfe/x",
        b"caf\xc3\xa9",
        b"cafe\xcc\x81",
        b"A",
        b"C",
        b"1:",
        b"dir/C:",
        b"a:b",
        b"C:",
        b"c:foo",
        b"dir/C:/x",
        b"a:.gsync",
        b"CC:/a",
        b"a\\.gsyncx",
        b".gsyncx",
        b"x.gsync",
        b"gsync",
        b"gsync~",
        b"gsync~x",
        b"gsync~10",
        u("gsync~\u0661"),
        u(".\uff47sync"),
        b"a\\b",
        b"a\\b/c",
        comp,
        comp + b"/" + comp,
        b"/".join([comp] * 16),
        b"-",
        b"~",
        b"\x01",
        b"\x7f",
        b"CON",
        b".gsync\xff",
        u("\u200c"),
        u("gsync\u200c"),
    ]
    bad = [
        ("empty", b""),
        ("component of 256 bytes", b"c" * 256),
        ("component of 256 bytes, inside", b"a/" + b"c" * 256 + b"/b"),
        ("4097 bytes", b"/".join([comp] * 15) + b"/" + b"c" * 254 + b"/cc"),
        ("begins with /", b"/a"),
        ("ends with /", b"a/"),
        ("only /", b"/"),
        ("//", b"a//b"),
        (".", b"."),
        ("..", b".."),
        ("./a", b"./a"),
        ("a/.", b"a/."),
        ("a/../b", b"a/../b"),
        ("../a", b"../a"),
        ("NUL", b"a\0b"),
        ("NUL at the end", b"a\0"),
        ("begins with a backslash", b"\\a"),
        ("ends with a backslash", b"a\\"),
        ("two backslashes", b"a\\\\b"),
        ("backslash and slash", b"a\\/b"),
        ("..\\a", b"..\\a"),
        ("a\\..\\b", b"a\\..\\b"),
        ("a\\.", b"a\\."),
        ("a/..\\b", b"a/..\\b"),
        ("drive and a slash at the end", b"C:/"),
        ("drive", b"C:/a"),
        ("drive with backslash", b"c:\\a"),
    ]
    bad += [
        (f".gsync as {n!a}", u(n))
        for n in (
            ".gsync",
            ".gsync/a",
            "a/.gsync",
            "a/.gsync/b",
            ".GSYNC",
            ".gSyNc/x",
            ".gsync.",
            ".gsync ",
            ".gsync. .",
            ".gsync...",
            "gsync~1",
            "gsync~0",
            "gsync~9/a",
            "a/gsync~1",
            ".gs\u200cync",
            ".gsync\u200f",
            "\u202a.gsync",
            ".g\u202esync",
            ".\u206agsync",
            ".gsync\u206f",
            "\ufeff.gsync",
            ".GS\u200dYNC",
            "a\\.gsync",
            "a\\.GSYNC.\\b",
            ".gsync\\a",
            "a\\gsync~1",
            ".gsync:stream",
            ".gsync::$DATA",
            ".gsync. :x/y",
            "gsync~1:x",
            "a\\.gsync:x",
            ".g\u017fync",
            "g\u017fYNC~1",
            ".gsync.\u200c",
            ".gsync\u200c .",
        )
    ]
    out = [yes(ascii(p[:40]), p) for p in good] + [
        yes("4096 bytes, 17 components", b"/".join([comp] * 15) + b"/" + b"c" * 253 + b"/cc")
    ]
    sets_good = [
        [b"a", b"b"],
        [b"a", b"ab/c", b"a-/c"],
        [b"A", b"a/b"],
        [b"a/b", b"a/c"],
        [b"caf\xc3\xa9", b"cafe\xcc\x81"],
    ]
    sets_bad = [
        [b"a", b"a/b"],
        [b"a", b"a-b", b"a.b", b"a/b"],
        [b"a/b", b"a/b/c/d"],
        [b"x", b"x!", b"x/y/z"],
    ]
    return vectors(
        "Paths (04, section 2). accept and reject: one path, rules 1 to 5. sets: the keys of a "
        "map, rule 6.",
        out,
        [no(d, p, d) for d, p in bad],
        sets=[{"paths": [p.hex() for p in s], "valid": True} for s in sets_good]
        + [
            {
                "paths": [p.hex() for p in s],
                "valid": False,
                "reason": "a path is a file and a directory",
            }
            for s in sets_bad
        ],
    )


# --- file entries ---


def file_entry():
    blob, lst = (lambda n: Ref(1, ID[5], n)), (lambda n: Ref(2, ID[6], n))
    good = [
        ("empty file", [0, 0, blob(0)]),
        ("file", [0, 5, blob(5)]),
        ("executable file", [1, 5, blob(5)]),
        ("the largest blob", [0, 131072, blob(131072)]),
        ("the smallest chunk list", [0, 131073, lst(131073), ID[7]]),
        ("executable with a chunk list", [1, 2**40, lst(2**40), ID[7]]),
        ("content of 2^58 bytes", [0, 2**58, lst(2**58), ID[7]]),
        ("link of 1 byte", [2, 1, blob(1)]),
        ("link of 4095 bytes", [2, 4095, blob(4095)]),
        ("empty directory", [3, 0, None]),
    ]
    bad = [
        ("type 4", [4, 0, None]),
        ("type -1", [-1, 5, blob(5)]),
        ("type false", [False, 5, blob(5)]),
        ("type as float", [0.0, 5, blob(5)]),
        ("size is not the length", [0, 6, blob(5)]),
        ("size as float", [0, 5.0, blob(5)]),
        ("size true", [0, True, blob(1)]),
        ("size -1", [0, -1, blob(0)]),
        ("blob of 131073 bytes", [0, 131073, blob(131073)]),
        ("chunk list of 131072 bytes", [0, 131072, lst(131072), ID[7]]),
        ("size is not the list's length", [0, 131074, lst(131073), ID[7]]),
        ("chunk list without content", [0, 131073, lst(131073)]),
        ("blob with content", [0, 5, blob(5), ID[7]]),
        ("content of 31 bytes", [0, 131073, lst(131073), bytes(31)]),
        ("content nil", [0, 131073, lst(131073), None]),
        ("content as text", [0, 131073, lst(131073), "a" * 32]),
        ("link with a chunk list", [2, 131073, lst(131073), ID[7]]),
        ("empty link", [2, 0, blob(0)]),
        ("link of 4096 bytes", [2, 4096, blob(4096)]),
        ("directory with a size", [3, 1, None]),
        ("directory with a reference", [3, 0, blob(0)]),
        ("directory of four fields", [3, 0, None, None]),
        ("file without a reference", [0, 0, None]),
        ("reference as bytes", [0, 5, ID[5]]),
        ("reference to a node", [0, 5, Ref(3, ID[5], 5)]),
        ("reference to a manifest", [0, 5, Ref(4, ID[5], 5)]),
        ("two fields", [0, 0]),
        ("five fields", [0, 131073, lst(131073), ID[7], None]),
        ("no array", 0),
        ("more than 2^58 bytes", [0, 2**58 + 1, lst(2**58 + 1), ID[7]]),
    ]
    return vectors(
        "File entries (04, section 3), as the value of a path.",
        [yes(d, E(v)) for d, v in good],
        [no(d, E(v), d) for d, v in bad]
        + [
            no("a byte after the entry", E([3, 0, None]) + b"\0", "bytes after the value"),
            no("type as uint 8", b"\x93\xcc\x03\x00\xc0", "not the shortest form"),
        ],
    )


FILES = {
    "ids": ids,
    "encoding": encoding,
    "map": maps,
    "manifest": manifest,
    "paths": paths,
    "file-entry": file_entry,
}


def rendered(name):
    def line(x):
        return json.dumps(x, ensure_ascii=True)

    v = FILES[name]()
    body = ",\n".join(
        f" {line(k)}: "
        + (
            "[" + ",".join(f"\n  {line(x)}" for x in w) + "\n ]"
            if isinstance(w, list) and w
            else line(w)
        )
        for k, w in v.items()
    )
    return "{\n" + body + "\n}\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else o.VECTORS
    for name in FILES:
        (folder / f"{name}.json").write_text(rendered(name))
