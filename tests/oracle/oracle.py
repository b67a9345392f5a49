"""A second implementation of spec/01 to 04, written from the pages alone: slow, plain, and sharing no code."""
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

VECTORS = Path(__file__).resolve().parents[2] / "spec" / "vectors"
BLOB, CHUNKS, NODE, MANIFEST, SCHEMA, VIEW = 1, 2, 3, 4, 5, 6
CONTEXT = {2: "gsync 2026 chunk list v1", 3: "gsync 2026 map node v1", 4: "gsync 2026 manifest v1",
           5: "gsync 2026 schema v1", 6: "gsync 2026 view v1"}
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
    """The shortest head for a length: fix is (first byte, limit), codes the bytes for 8, 16 and 32 bits (or None)."""
    if fix and n < fix[1]:
        return bytes([fix[0] + n])
    for code, bits in zip(codes, (8, 16, 32)):
        if code and n < 1 << bits:
            return bytes([code]) + n.to_bytes(bits // 8, "big")
    raise Bad("too long")


def encode(v, depth=0):
    if v is None or isinstance(v, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[v]
    if isinstance(v, int):
        need(-2**63 <= v < 2**64, "integer out of range")
        if -32 <= v < 128:
            return bytes([v & 255])
        if v >= 0:
            i = next(i for i in range(4) if v < 1 << (8 << i))
            return bytes([0xcc + i]) + v.to_bytes(1 << i, "big")
        i = next(i for i in range(4) if v >= -(1 << ((8 << i) - 1)))
        return bytes([0xd0 + i]) + v.to_bytes(1 << i, "big", signed=True)
    if isinstance(v, float):
        return b"\xcb" + (bytes.fromhex("7ff8000000000000") if v != v else struct.pack(">d", v))
    if isinstance(v, str):
        need(not re.search("[\ud800-\udfff]", v), "text that is not UTF-8")
        raw = v.encode("utf-8")
        return sized(len(raw), (0xa0, 32), (0xd9, 0xda, 0xdb)) + raw
    if isinstance(v, bytes):
        return sized(len(v), None, (0xc4, 0xc5, 0xc6)) + v
    if isinstance(v, (list, tuple)):
        need(depth < 32, "nested too deep")
        return sized(len(v), (0x90, 16), (None, 0xdc, 0xdd)) + b"".join(encode(x, depth + 1) for x in v)
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
        return data[at - n:at]

    def number(n):
        return int.from_bytes(take(n), "big")

    def value(depth):
        c = take(1)[0]
        if c < 0x80:
            return c
        if c >= 0xe0:
            return c - 256
        if c in (0xc0, 0xc2, 0xc3):
            return {0xc0: None, 0xc2: False, 0xc3: True}[c]
        if 0xcc <= c <= 0xcf:
            return number(1 << (c - 0xcc))
        if 0xd0 <= c <= 0xd3:
            return int.from_bytes(take(1 << (c - 0xd0)), "big", signed=True)
        if c == 0xcb:
            return struct.unpack(">d", take(8))[0]
        if c & 0xe0 == 0xa0 or 0xd9 <= c <= 0xdb:
            # what is not UTF-8 becomes a surrogate, which encode refuses below
            return take(c & 31 if c < 0xc0 else number(1 << (c - 0xd9))).decode("utf-8", "surrogateescape")
        if 0xc4 <= c <= 0xc6:
            return take(number(1 << (c - 0xc4)))
        if c & 0xf0 == 0x90 or c in (0xdc, 0xdd):
            n = c & 15 if c < 0xa0 else number(2 << (c - 0xdc))
            need(depth < 32, "nested too deep")
            return [value(depth + 1) for _ in range(n)]
        if c == 0xc7 and data[at:at + 2] == b"\x29\x01":
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
    return [r for x in v for r in refs_in(x)] if isinstance(v, list) else [v] if isinstance(v, Ref) else []


def references(kind, body):
    """(kind, id) of everything that an object refers to, in order."""
    if kind == BLOB:
        return []
    v = decode(body)
    if kind == CHUNKS:
        return [(r.kind, r.id) for r in v[2]]
    if kind == NODE:
        return [(r.kind, r.id) for x in v[3] for r in refs_in(decode(x))] if v[1] == 0 else [(NODE, c) for c in v[3]]
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
    h = int.from_bytes(blake3(bytes([level]) + key, derive_key_context="gsync 2026 map split v1").digest()[:4], "little")
    b, a = (W[x] if x < len(W) else 0 for x in (before, after))
    return b == 0 or h * b < (b - a) << 32


def build_map(entries):
    """entries: sorted [(key, value)]. Returns (root id, {id: body}, [number of nodes of each level])."""
    store, counts, level = {}, [], 0
    row = [(k, v, 1, len(k) + len(v)) for k, v in entries]      # key, value or child id, rows, bytes
    while True:
        groups, size = [[]], 0
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
            columns = [list(x) for x in zip(*g)] or [[], [], [], []]
            body = encode([1, level] + (columns[:2] if level == 0 else columns))
            store[object_id(NODE, body)] = body
            above.append((g[-1][0] if g else b"", object_id(NODE, body), sum(columns[2]), sum(columns[3])))
        counts.append(len(groups))
        if len(groups) == 1:
            return above[0][1], store, counts
        row, level = above, level + 1


def check_node(body, last_of_level, root=False):
    need(len(body) <= 131072, "body too long")
    v = decode(body)
    need(isinstance(v, list) and len(v) >= 4 and is_int(v[0]) and v[0] == 1, "not a node of version 1")
    level = v[1]
    need(is_int(level) and 0 <= level <= 32, "level")
    need(len(v) == (4 if level == 0 else 6) and all(isinstance(c, list) for c in v[2:]), "layout")
    n = len(v[2])
    need(all(len(c) == n for c in v[2:]), "lengths of the arrays differ")
    need(n > 0 or (level == 0 and root), "empty node")
    need(all(isinstance(x, bytes) for c in v[2:4] for x in c), "keys, values and ids are bytes")
    need(all(1 <= len(k) <= 4096 for k in v[2]), "length of a key")
    need(all(a < b for a, b in zip(v[2], v[2][1:])), "keys do not rise")
    if level == 0:
        for x in v[3]:
            need(len(x) <= 65536, "value too long")
            decode(x)
    else:
        need(all(len(x) == 32 for x in v[3]), "length of an id")
        need(all(is_int(x) and x > 0 for c in v[4:] for x in c), "rows and bytes are positive integers")
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
        for j, (key, child, rows, size) in enumerate(zip(*v[2:])):
            got = walk(child, v[1] - 1, last and j == len(v[2]) - 1, low)
            need(got == (key, rows, size), "last key, rows or bytes are not what the parent holds")
            low = key
        return low, sum(v[4]), sum(v[5])

    return walk(root, None, True, None)


# --- 04: manifests, paths, file entries ---

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def is_id(v):
    return isinstance(v, bytes) and len(v) == 32


def text(v, low, high):
    return isinstance(v, str) and low <= len(v.encode()) <= high


def rising(names):
    return all(a.encode() < b.encode() for a, b in zip(names, names[1:]))


def check_manifest(body):
    _, parents, collections, meta = record(body, 4, 262144)
    need(isinstance(parents, list) and len(parents) <= 16 and all(map(is_id, parents)), "parents")
    need(len(set(parents)) == len(parents), "a parent twice")
    need(isinstance(collections, list) and len(collections) <= 4096, "collections")
    for c in collections:
        need(isinstance(c, list) and len(c) == 5, "layout of a collection")
        need(text(c[0], 1, 255) and NAME.fullmatch(c[0]), "name of a collection")
        need(is_id(c[1]) and is_int(c[2]) and c[2] >= 0, "root or count")
        need(all(x is None or is_id(x) for x in c[3:]), "schema or view")
        need(c[0] != "files" or c[3] is c[4] is None, "files has a schema or view")
    need(rising([c[0] for c in collections]), "collections are not sorted")
    need(isinstance(meta, list) and len(meta) == 4, "layout of meta")
    author, time, message, extras = meta
    need(text(author, 0, 255) and "\0" not in author, "author")
    need(is_int(time), "time")
    need(text(message, 0, 65536) and "\0" not in message, "message")
    need(isinstance(extras, list) and len(extras) <= 64, "extras")
    need(all(isinstance(x, list) and len(x) == 2 and text(x[0], 1, 255) for x in extras), "layout of an extra")
    need(rising([x[0] for x in extras]), "extras are not sorted")


IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def check_path(path):
    def rule2(p):
        need(not {b"", b".", b".."} & set(p.split(b"/")), "empty component, . or ..")

    need(1 <= len(path) <= 4096, "length of the path")
    need(all(len(c) <= 255 for c in path.split(b"/")), "length of a component")
    rule2(path)
    need(b"\0" not in path, "NUL")
    slashed = path.replace(b"\\", b"/")
    rule2(slashed)
    need(not re.fullmatch(rb"[A-Za-z]:", slashed.split(b"/")[0]), "drive")
    for c in path.decode("utf-8", "surrogateescape").split("/"):
        c = IGNORED.sub("", c).rstrip(". ").lower()
        need(c != ".gsync" and not re.fullmatch("gsync~[0-9]", c), ".gsync")


def check_paths(paths):
    for p in paths:
        check_path(p)
        need(not any(p[:i] in paths for i, c in enumerate(p) if c == 47), "a path is a file and a directory")


def check_file_entry(value):
    v = decode(value)
    need(isinstance(v, list) and len(v) in (3, 4) and all(map(is_int, v[:2])), "layout")
    kind, size, ref = v[:3]
    if kind == 3:
        return need(len(v) == 3 and size == 0 and ref is None, "directory")
    need(kind in (0, 1, 2), "type")
    need(isinstance(ref, Ref) and ref.length == size, "reference or its length")
    if len(v) == 3:
        need(ref.kind == BLOB and size <= 131072, "blob")
        return need(kind != 2 or 1 <= size <= 4095, "length of a link")
    need(kind != 2 and ref.kind == CHUNKS and 131072 < size <= 2**58 and is_id(v[3]), "chunk list")


# --- 02: chunks ---

S, L = 0x0000D90303537000, 0x0000D90313530000


def gear():
    page = (VECTORS.parent / "02-chunking.md").read_text().split("<!-- gear table -->")[1]
    return [int(x, 16) for x in page.split()]


def cut(content):
    """The ends of all chunks; a content that is never cut has one, and the empty one none."""
    if len(content) <= 131072:
        return [len(content)] if content else []
    G, start, out = gear(), 0, []
    while start < len(content):
        rest = len(content) - start
        length = most = min(rest, 131072)
        h = 0
        for i in range(8192, most - most % 2):
            h = (2 * h + G[content[start + i]]) & 0xFFFFFFFFFFFFFFFF
            if not h & (S if i < 32768 else L):
                length = i
                break
        start += length
        out.append(start)
    return out


def ends_list(count, id):
    return count == 512 or (count >= 32 and id[-1] & 127 == 0)


def build_list(row):
    """row: references to chunks. Returns (root reference, level, [number of nodes of each level])."""
    level, counts = 0, []
    while True:
        groups = [[]]
        for r in row:
            if groups[-1] and ends_list(len(groups[-1]), groups[-1][-1].id):
                groups.append([])
            groups[-1].append(r)
        row = [Ref(CHUNKS, object_id(CHUNKS, encode([1, level, g])), sum(r.length for r in g)) for g in groups]
        counts.append(len(row))
        if len(row) == 1:
            return row[0], level, counts
        level += 1
