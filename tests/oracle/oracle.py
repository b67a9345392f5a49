"""A second implementation of spec/01 to 04, written from the pages alone: slow and plain.

It shares no code with gsync, so that a mistake has to be made twice to pass. Pages 01 (ids and
encoding) and 03 (the map) are here, page 02 in `chunks`, page 04 in `manifests`; `make_vectors`
makes the vectors of 01, 03 and 04 with them.
"""

import json
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from blake3 import blake3

VECTORS = Path(__file__).resolve().parents[2] / "spec" / "vectors"
BLOB, CHUNKS, NODE, MANIFEST, SCHEMA, VIEW = 1, 2, 3, 4, 5, 6
CONTEXT = {
    2: "gsync 2026 chunk list v1",
    3: "gsync 2026 map node v1",
    4: "gsync 2026 manifest v1",
    5: "gsync 2026 schema v1",
    6: "gsync 2026 view v1",
}
W = [int(x, 16) for x in json.loads((VECTORS / "map-split-table.json").read_text())["table"]]


class Bad(ValueError):
    pass


def need(condition, why):
    if not condition:
        raise Bad(why)


# --- 01: ids, canonical msgpack, references ---


def object_id(kind, body):
    if kind == BLOB:
        return blake3(body).digest()
    return blake3(body, derive_key_context=CONTEXT[kind]).digest()


@dataclass(frozen=True)
class Ref:
    kind: int
    id: bytes
    length: int


def is_int(v):
    return isinstance(v, int) and not isinstance(v, bool)


def sized(n, fix, codes):
    """The shortest head for a length.

    fix is (first byte, limit) or None, codes are the bytes for 8, 16 and 32 bits, or None each.
    """
    if fix and n < fix[1]:
        return bytes([fix[0] + n])
    for code, bits in zip(codes, (8, 16, 32), strict=True):
        if code and n < 1 << bits:
            return bytes([code]) + n.to_bytes(bits // 8, "big")
    raise Bad("too long")


def encode(v, depth=0):
    if v is None or isinstance(v, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[v]
    if isinstance(v, int):
        need(-(2**63) <= v < 2**64, "integer out of range")
        if -32 <= v < 128:
            return bytes([v & 255])
        if v >= 0:
            i = next(i for i in range(4) if v < 1 << (8 << i))
            return bytes([0xCC + i]) + v.to_bytes(1 << i, "big")
        i = next(i for i in range(4) if v >= -(1 << ((8 << i) - 1)))
        return bytes([0xD0 + i]) + v.to_bytes(1 << i, "big", signed=True)
    if isinstance(v, float):
        return b"\xcb" + (bytes.fromhex("7ff8000000000000") if v != v else struct.pack(">d", v))
    if isinstance(v, str):
        need(not re.search("[\ud800-\udfff]", v), "text that is not UTF-8")
        raw = v.encode("utf-8")
        return sized(len(raw), (0xA0, 32), (0xD9, 0xDA, 0xDB)) + raw
    if isinstance(v, bytes):
        return sized(len(v), None, (0xC4, 0xC5, 0xC6)) + v
    if isinstance(v, (list, tuple)):
        need(depth < 32, "nested too deep")
        return sized(len(v), (0x90, 16), (None, 0xDC, 0xDD)) + b"".join(
            encode(x, depth + 1) for x in v
        )
    if isinstance(v, Ref):
        need(v.kind in range(1, 7), "reference to an unknown kind")
        need(len(v.id) == 32, "reference whose id has not 32 bytes")
        need(0 <= v.length < 2**63, "reference whose length is out of range")
        return b"\xc7\x29\x01" + bytes([v.kind]) + v.id + v.length.to_bytes(8, "big")
    raise Bad("type that is not allowed")


def decode(data):
    at = 0

    def take(n):
        nonlocal at
        need(at + n <= len(data), "cut short")
        at += n
        return data[at - n : at]

    def number(n):
        return int.from_bytes(take(n), "big")

    def value(depth):
        c = take(1)[0]
        if c < 0x80:
            return c
        if c >= 0xE0:
            return c - 256
        if c in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[c]
        if 0xCC <= c <= 0xCF:
            return number(1 << (c - 0xCC))
        if 0xD0 <= c <= 0xD3:
            return int.from_bytes(take(1 << (c - 0xD0)), "big", signed=True)
        if c == 0xCB:
            return struct.unpack(">d", take(8))[0]
        if c & 0xE0 == 0xA0 or 0xD9 <= c <= 0xDB:
            # what is not UTF-8 becomes a surrogate, which encode refuses below
            return take(c & 31 if c < 0xC0 else number(1 << (c - 0xD9))).decode(
                "utf-8", "surrogateescape"
            )
        if 0xC4 <= c <= 0xC6:
            return take(number(1 << (c - 0xC4)))
        if c & 0xF0 == 0x90 or c in (0xDC, 0xDD):
            n = c & 15 if c < 0xA0 else number(2 << (c - 0xDC))
            need(depth < 32, "nested too deep")
            return [value(depth + 1) for _ in range(n)]
        if c == 0xC7 and data[at : at + 2] == b"\x29\x01":
            take(2)
            return Ref(number(1), take(32), number(8))
        raise Bad("type that is not allowed")

    out = value(0)
    need(at == len(data), "bytes after the value")
    need(encode(out) == data, "not the canonical form")
    return out


def record(body, fields, limit):
    need(len(body) <= limit, "body too long")
    v = decode(body)
    need(isinstance(v, list) and len(v) == fields, "wrong number of fields")
    need(is_int(v[0]) and v[0] == 1, "unknown version")
    return v


def refs_in(v):
    return (
        [r for x in v for r in refs_in(x)]
        if isinstance(v, list)
        else [v]
        if isinstance(v, Ref)
        else []
    )


def references(kind, body):
    """(kind, id) of everything that an object refers to, in order."""
    if kind == BLOB:
        return []
    v = decode(body)
    if kind == CHUNKS:
        return [(r.kind, r.id) for r in v[2]]
    if kind == NODE:
        return (
            [(r.kind, r.id) for x in v[3] for r in refs_in(decode(x))]
            if v[1] == 0
            else [(NODE, c) for c in v[3]]
        )
    need(kind == MANIFEST, "kind without rules")
    out = [(MANIFEST, p) for p in v[1]]
    for c in v[2]:
        out += [(k, i) for k, i in ((NODE, c[1]), (SCHEMA, c[3]), (VIEW, c[4])) if i is not None]
    return out + [(r.kind, r.id) for x in v[3][3] for r in refs_in(x[1])]


# --- 03: the map ---


def ends(level, before, after, count, key):
    if after < 512 or (level > 0 and count < 2):
        return False
    if after > 16384:
        return True
    h = int.from_bytes(
        blake3(bytes([level]) + key, derive_key_context="gsync 2026 map split v1").digest()[:4],
        "little",
    )
    b, a = (W[x] if x < len(W) else 0 for x in (before, after))
    return b == 0 or h * b < (b - a) << 32


def build_map(entries):
    """Return (root id, {id: body}, [nodes of each level]) for sorted [(key, value)]."""
    store, counts, level = {}, [], 0
    row = [(k, v, 1, len(k) + len(v)) for k, v in entries]  # key, value or child id, rows, bytes
    while True:
        size = 0
        groups: list[list] = [[]]
        for item in row:
            group = groups[-1]
            after = size + len(item[0]) + (len(item[1]) if level == 0 else 40)
            group.append(item)
            end = ends(level, size, after, len(group), item[0])
            size = 0 if end else after
            if end:
                groups.append([])
        if not groups[-1] and len(groups) > 1:
            groups.pop()
        above = []
        for g in groups:
            columns = [list(x) for x in zip(*g, strict=True)] or [[], [], [], []]
            body = encode([1, level] + (columns[:2] if level == 0 else columns))
            store[object_id(NODE, body)] = body
            above.append(
                (g[-1][0] if g else b"", object_id(NODE, body), sum(columns[2]), sum(columns[3]))
            )
        counts.append(len(groups))
        if len(groups) == 1:
            return above[0][1], store, counts
        row, level = above, level + 1


def check_node(body, last_of_level, root=False):
    need(len(body) <= 131072, "body too long")
    v = decode(body)
    need(
        isinstance(v, list) and len(v) >= 4 and is_int(v[0]) and v[0] == 1,
        "not a node of version 1",
    )
    level = v[1]
    need(is_int(level) and 0 <= level <= 32, "level")
    need(len(v) == (4 if level == 0 else 6) and all(isinstance(c, list) for c in v[2:]), "layout")
    n = len(v[2])
    need(all(len(c) == n for c in v[2:]), "lengths of the arrays differ")
    need(n > 0 or (level == 0 and root), "empty node")
    need(all(isinstance(x, bytes) for c in v[2:4] for x in c), "keys, values and ids are bytes")
    need(all(1 <= len(k) <= 4096 for k in v[2]), "length of a key")
    need(all(a < b for a, b in pairwise(v[2])), "keys do not rise")
    if level == 0:
        for x in v[3]:
            need(len(x) <= 65536, "value too long")
            decode(x)
    else:
        need(all(len(x) == 32 for x in v[3]), "length of an id")
        need(
            all(is_int(x) and 1 <= x < 2**63 for c in v[4:] for x in c),
            "rows or bytes out of range",
        )
        need(n > 1 or not root, "root with one child")
    size, end = 0, False
    for i, key in enumerate(v[2]):
        after = size + len(key) + (len(v[3][i]) if level == 0 else 40)
        size, end = after, ends(level, size, after, i + 1, key)
        need(not end or i == n - 1, "an entry before the last ends the node")
    need(end or last_of_level, "the last entry does not end the node")
    return v


def check_tree(store, root):
    def walk(i, level, last, low):
        need(i in store and object_id(NODE, store[i]) == i, "body of another id")
        v = check_node(store[i], last, level is None)
        need(level is None or v[1] == level, "level is not one below the parent's")
        need(low is None or not v[2] or v[2][0] > low, "keys not above the previous last key")
        if v[1] == 0:
            return v[2][-1] if v[2] else None, len(v[2]), sum(map(len, v[2] + v[3]))
        for j, (key, child, rows, size) in enumerate(zip(*v[2:], strict=True)):
            got = walk(child, v[1] - 1, last and j == len(v[2]) - 1, low)
            need(got == (key, rows, size), "last key, rows or bytes are not what the parent holds")
            low = key
        return low, sum(v[4]), sum(v[5])

    return walk(root, None, True, None)
