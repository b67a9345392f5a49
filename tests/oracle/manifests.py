"""Page 04: manifests, paths and file entries."""

import re
from itertools import pairwise

from oracle.oracle import BLOB, CHUNKS, Ref, decode, is_int, need, record

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def is_id(v):
    return isinstance(v, bytes) and len(v) == 32


def text(v, low, high):
    return isinstance(v, str) and low <= len(v.encode()) <= high


def rising(names):
    return all(a.encode() < b.encode() for a, b in pairwise(names))


def check_manifest(body):
    _, parents, collections, meta = record(body, 4, 262144)
    need(isinstance(parents, list) and len(parents) <= 16 and all(map(is_id, parents)), "parents")
    need(len(set(parents)) == len(parents), "a parent twice")
    need(isinstance(collections, list) and len(collections) <= 4096, "collections")
    for c in collections:
        need(isinstance(c, list) and len(c) == 5, "layout of a collection")
        need(text(c[0], 1, 255) and NAME.fullmatch(c[0]), "name of a collection")
        need(is_id(c[1]) and is_int(c[2]) and 0 <= c[2] < 2**63, "root or count")
        need(all(x is None or is_id(x) for x in c[3:]), "schema or view")
        need(c[0] != "files" or c[3] is c[4] is None, "files has a schema or view")
    need(rising([c[0] for c in collections]), "collections are not sorted")
    need(isinstance(meta, list) and len(meta) == 4, "layout of meta")
    author, time, message, extras = meta
    need(text(author, 0, 255) and "\0" not in author, "author")
    need(is_int(time) and -(2**63) <= time < 2**63, "time")
    need(text(message, 0, 65536) and "\0" not in message, "message")
    need(isinstance(extras, list) and len(extras) <= 64, "extras")
    for x in extras:
        need(isinstance(x, list) and len(x) == 2 and text(x[0], 1, 255), "layout of an extra")
    need(rising([x[0] for x in extras]), "extras are not sorted")


IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def no_dots(components):
    need(not {b"", b".", b".."} & set(components), "empty component, . or ..")


def is_own(component):
    """Whether some file system takes the component for .gsync (rule 5)."""
    name = IGNORED.sub("", component.decode("utf-8", "surrogateescape").split(":")[0])
    return re.fullmatch(r"\.gsync|gsync~[0-9]", name.rstrip(". ").casefold())


def check_path(path):
    components = path.split(b"/")
    slashed = path.replace(b"\\", b"/").split(b"/")
    need(1 <= len(path) <= 4096, "length of the path")
    need(all(len(c) <= 255 for c in components), "length of a component")
    need(b"\0" not in path, "NUL")
    no_dots(components)
    no_dots(slashed)
    need(len(slashed) == 1 or not re.fullmatch(rb"[A-Za-z]:", slashed[0]), "drive")
    need(not any(map(is_own, components + slashed)), ".gsync")


def check_paths(paths):
    for p in paths:
        check_path(p)
        above = [p[:i] for i, c in enumerate(p) if c == 47]
        need(not set(above) & set(paths), "a path is a file and a directory")


def check_file_entry(value):
    v = decode(value)
    need(isinstance(v, list) and len(v) in (3, 4) and all(map(is_int, v[:2])), "layout")
    kind, size, ref = v[:3]
    need(kind in (0, 1, 2, 3), "type")
    if kind == 3:
        need(len(v) == 3 and size == 0 and ref is None, "directory")
        return
    need(isinstance(ref, Ref) and ref.length == size, "reference or its length")
    if kind == 2:
        need(len(v) == 3 and ref.kind == BLOB and 1 <= size <= 4095, "link")
    elif size <= 131072:
        need(len(v) == 3 and ref.kind == BLOB, "blob")
    else:
        need(len(v) == 4 and ref.kind == CHUNKS and size <= 2**58 and is_id(v[3]), "chunk list")
