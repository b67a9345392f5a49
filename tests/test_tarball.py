"""Tarballs: what we write others read, what others write we read, and what is refused."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from support import require

from gsync.errors import GsyncError, Invalid, NotFound, TooLarge
from gsync.maps.omap import build_map, list_entries
from gsync.objects.chunk_list import ChunkListBuilder, list_chunks
from gsync.objects.chunking import CHUNKED_ABOVE_BYTES, split_buffers
from gsync.objects.encoding import NotCanonical, Reference
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import check_path, check_sorted_paths
from gsync.store.memory import MemoryStore
from gsync.tarball import HeldBack, TarLimits, read_tarball, write_tarball
from gsync.tarball.headers import encode_member
from gsync.views.files import EntryType, FileEntry, decode_entry, encode_entry

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "spec" / "vectors" / "tarball.json").read_text()
)

FILE, EXECUTABLE, SYMLINK, DIRECTORY = EntryType
Tree = Mapping[bytes, tuple[EntryType, bytes]]

LONG = b"/".join([b"component-%03d" % n for n in range(60)])
AWKWARD: dict[bytes, tuple[EntryType, bytes]] = {
    b"a": (FILE, b"first"),
    b"a-b": (FILE, b""),
    b"a.d/b": (EXECUTABLE, b"#!/bin/sh\n"),
    b" leading space": (FILE, b"1"),
    b"-rf": (FILE, b"2"),
    b"bell\x07 and\ttab": (FILE, b"3"),
    b"line\nbreak/in\nboth": (FILE, b"4"),
    b"back\\slash": (FILE, b"5"),
    "größe/\u65e5\u672c".encode(): (FILE, b"6"),
    b"latin-\xe9\xff": (FILE, b"7"),
    b"latin-" + b"\xe9" * 120: (FILE, b"8"),
    b"c" * 100: (FILE, b"exactly a name field"),
    b"d" * 101: (FILE, b"one more, and no slash to split at"),
    b"e" * 255: (FILE, b"a whole component"),
    b"f" * 155 + b"/" + b"g" * 100: (FILE, b"exactly prefix and name"),
    b"f" * 156 + b"/" + b"g" * 100: (FILE, b"one more"),
    LONG: (FILE, b"deep"),
    LONG[:300] + b"x/" + b"\xff" * 255: (EXECUTABLE, b"deep and not UTF-8"),
    b"empty": (DIRECTORY, b""),
    b"h" * 99 + b"/": (DIRECTORY, b""),
    b"h/" + b"i" * 250: (DIRECTORY, b""),
    b"link": (SYMLINK, b"a"),
    b"link-out": (SYMLINK, b"../../etc/passwd"),
    b"link-long": (SYMLINK, b"x/" * 2000),
    b"link-100": (SYMLINK, b"y" * 100),
    b"link-latin": (SYMLINK, b"\xe9" * 101),
    b"one-block": (FILE, b"z" * 512),
    b"one-chunk": (FILE, bytes(CHUNKED_ABOVE_BYTES)),
    b"chunks": (FILE, blake3(b"chunks").digest(1_000_000)),
    b"chunks-x": (EXECUTABLE, blake3(b"x").digest(CHUNKED_ABOVE_BYTES + 1)),
}
AWKWARD[b"h" * 99] = AWKWARD.pop(b"h" * 99 + b"/")


def put_tree(store: MemoryStore, tree: Tree) -> ObjectId:
    entries = [(path, encode_entry(put_entry(store, *tree[path]))) for path in sorted(tree)]
    return build_map(store, entries)


def put_entry(store: MemoryStore, type_: EntryType, content: bytes) -> FileEntry:
    if type_ is DIRECTORY:
        return FileEntry(DIRECTORY, 0, None)
    if len(content) <= CHUNKED_ABOVE_BYTES:
        oid = store.put(Kind.BLOB, content)
        return FileEntry(type_, len(content), Reference(Kind.BLOB, oid, len(content)))
    builder = ChunkListBuilder(store.put)
    for chunk in split_buffers([content]):
        builder.add(Reference(Kind.BLOB, store.put(Kind.BLOB, chunk), len(chunk)))
    digest = ObjectId(blake3(content).digest())
    return FileEntry(type_, len(content), builder.finish(), digest)


def get_tree(store: MemoryStore, root: ObjectId) -> dict[bytes, tuple[EntryType, bytes]]:
    tree = {}
    for path, value in list_entries(store, root):
        entry = decode_entry(value)
        if entry.ref is None:
            content = b""
        elif entry.ref.kind is Kind.BLOB:
            content = store.get(Kind.BLOB, entry.ref.oid)
        else:
            refs = list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), entry.ref)
            content = b"".join(store.get(Kind.BLOB, ref.oid) for ref in refs)
        tree[path] = (entry.type, content)
    return tree


def packed(store: MemoryStore, root: ObjectId, **options: Any) -> bytes:
    out = io.BytesIO()
    written = write_tarball(store, root, out, **options)
    data = out.getvalue()
    tar = gzip.decompress(data)
    assert written.gzip_bytes == len(data)
    assert written.tar_bytes == len(tar)
    assert written.tar_blake3 == blake3(tar).digest()
    return data


def read_tree(data: bytes, **options: Any) -> dict[bytes, tuple[EntryType, bytes]]:
    store = MemoryStore()
    read = read_tarball(io.BytesIO(data), store, **options)
    tree = get_tree(store, read.root)
    assert read.count == len(tree)
    return tree


# --- What we write -------------------------------------------------------------------


def test_awkward_tree_comes_back():
    """Writing and reading is the identity, for every kind of entry and name."""
    store = MemoryStore()
    root = put_tree(store, AWKWARD)
    data = packed(store, root)
    elsewhere = MemoryStore()
    read = read_tarball(io.BytesIO(data), elsewhere)
    assert read.root == root
    assert read.tar_blake3 == blake3(gzip.decompress(data)).digest()
    assert get_tree(elsewhere, root) == AWKWARD


COMPONENTS = st.one_of(
    st.sampled_from([b"a", b"b", b"a.b", b"a-b", b"c" * 99, b"d" * 255, b"\xff" * 101, b"x\ny"]),
    st.binary(min_size=1, max_size=12),
    st.text(min_size=1, max_size=8).map(lambda text: text.encode("utf-8", "replace")),
)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=6).map(b"/".join)
CONTENTS = st.one_of(
    st.tuples(st.sampled_from([FILE, EXECUTABLE]), st.binary(max_size=1100)),
    st.tuples(st.just(FILE), st.integers(131_072, 140_000).map(bytes)),
    st.tuples(st.just(SYMLINK), st.binary(min_size=1, max_size=300).filter(lambda t: 0 not in t)),
    st.just((DIRECTORY, b"")),
)


def is_legal(path: bytes) -> bool:
    try:
        check_path(path)
    except Invalid:
        return False
    return True


def as_tree(found: Tree) -> dict[bytes, tuple[EntryType, bytes]]:
    """Drop what lies below an entry that is not a directory with something in it."""
    tree: dict[bytes, tuple[EntryType, bytes]] = {}
    for path in sorted(found):
        try:
            list(check_sorted_paths([*tree, path]))
        except Invalid:
            continue
        tree[path] = found[path]
    return tree


@given(st.dictionaries(PATHS.filter(is_legal), CONTENTS, max_size=8).map(as_tree))
def test_any_tree_comes_back(tree: Tree):
    """Writing and reading any tree gives its root again, also through Python's tarfile."""
    store = MemoryStore()
    root = put_tree(store, tree)
    data = packed(store, root)
    assert read_tarball(io.BytesIO(data), MemoryStore()).root == root
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [os.fsencode(member.name) for member in archive] == sorted(tree)


DETERMINISM = """
import io, os, sys, zlib
sys.path[:0] = {path!r}
os.umask(int(sys.argv[1]))
from test_tarball import AWKWARD, MemoryStore, put_tree, write_tarball
store = MemoryStore()
out = io.BytesIO()
written = write_tarball(store, put_tree(store, AWKWARD), out)
print(written.tar_blake3.hex(), zlib.crc32(out.getvalue()))
"""


def test_bytes_are_the_same_in_every_process():
    """Hash seed, time zone, locale and umask do not show in the bytes."""
    script = DETERMINISM.format(path=[str(Path(__file__).parent), *sys.path])
    printed = set()
    for seed, zone, locale, umask in (
        ("0", "UTC", "C", "0"),
        ("1", "Asia/Tokyo", "C.UTF-8", "63"),
    ):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale}
        command = [sys.executable, "-c", script, umask]
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        printed.add(done.stdout)
    assert len(printed) == 1


def test_how_a_content_is_stored_does_not_show():
    """Bodies that a store hands out in another order make the same bytes."""

    class Backwards(MemoryStore):
        def get_many(self, wanted):
            yield from reversed(list(super().get_many(wanted)))

    left, right = MemoryStore(), Backwards()
    assert packed(left, put_tree(left, AWKWARD)) == packed(right, put_tree(right, AWKWARD))


def test_gzip_header_names_the_compressor():
    """One member: no time, system 255, and a comment with compressor, version and level."""
    store = MemoryStore()
    data = packed(store, put_tree(store, {}))
    comment = f"gsync; zlib {zlib.ZLIB_RUNTIME_VERSION} level 6".encode()
    assert data.startswith(b"\x1f\x8b\x08\x10\0\0\0\0\0\xff" + comment + b"\0")
    inflate = zlib.decompressobj(31)
    assert inflate.decompress(data) == bytes(10240)
    assert inflate.eof
    assert not inflate.unused_data


def test_members_carry_nothing_of_the_machine():
    """Owner, group and time are 0 and empty; modes follow from the type alone."""
    store = MemoryStore()
    data = packed(store, put_tree(store, AWKWARD))
    modes = {FILE: 0o644, EXECUTABLE: 0o755, SYMLINK: 0o777, DIRECTORY: 0o755}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            assert member.mtime == 0
            assert member.mode == modes[AWKWARD[os.fsencode(member.name)][0]]


def test_a_given_time_stands_at_every_member():
    """`mtime` is what tar shows, and one that has no place in a header is refused."""
    store = MemoryStore()
    root = put_tree(store, AWKWARD)
    with tarfile.open(fileobj=io.BytesIO(packed(store, root, mtime=1_700_000_000))) as archive:
        assert {member.mtime for member in archive} == {1_700_000_000}
    with pytest.raises(Invalid):
        write_tarball(store, root, io.BytesIO(), mtime=-1)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([b"a"], [b"a"]),
        ([b"d"], [b"d/x", b"d/y/z"]),
        ([b"d", b"a"], [b"a", b"d/x", b"d/y/z"]),
        ([b"d", b"d/y", b"d/x", b"d"], [b"d/x", b"d/y/z"]),
        ([b"d", b"d-e"], [b"d-e", b"d/x", b"d/y/z"]),
        ([b"e"], [b"e"]),
    ],
)
def test_paths_select_files_and_directories(paths, expected):
    """Chosen paths come in map order, once each, with all that is below them."""
    store = MemoryStore()
    names = [b"a", b"a-b", b"d-e", b"d/x", b"d/y/z"]
    tree = {**dict.fromkeys(names, (FILE, b"")), b"e": (DIRECTORY, b"")}
    data = packed(store, put_tree(store, tree), paths=paths)
    assert list(read_tree(data)) == expected
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [member.name.encode() for member in archive] == expected


@pytest.mark.parametrize("paths", [[b"x"], [b"d/"], [b"a/b"], [b""], [b"d", b"d/z"]])
def test_a_path_that_is_not_there_is_an_error(paths):
    """Nothing is written when a chosen path names nothing."""
    store = MemoryStore()
    root = put_tree(store, {b"a": (FILE, b""), b"d/x": (FILE, b"")})
    out = io.BytesIO()
    with pytest.raises((NotFound, Invalid)):
        write_tarball(store, root, out, paths=paths)
    assert not out.getvalue()


def test_a_content_that_is_not_what_the_entry_says_is_an_error():
    """A length that is off would shift the archive, and a wrong digest would travel."""
    store = MemoryStore()
    blob = Reference(Kind.BLOB, store.put(Kind.BLOB, b"four"), 5)
    good = put_entry(store, FILE, bytes(200_000))
    for entry in (
        FileEntry(FILE, 5, blob),
        FileEntry(FILE, good.size, good.ref, ObjectId(bytes(32))),
    ):
        root = build_map(store, [(b"a", encode_entry(entry))])
        with pytest.raises(NotCanonical):
            write_tarball(store, root, io.BytesIO())


# --- Other programs ------------------------------------------------------------------


def on_disk(top: Path) -> dict[bytes, tuple[EntryType, bytes]]:
    """Return the tree below `top` as lists and reads see it."""
    tree: dict[bytes, tuple[EntryType, bytes]] = {}
    start = os.fsencode(top)
    for directory, names, files in os.walk(start):
        for name in [*names, *files]:
            full = os.path.join(directory, name)
            path = os.path.relpath(full, start)
            if os.path.islink(full):
                tree[path] = (SYMLINK, os.readlink(full))
            elif os.path.isdir(full):
                if not os.listdir(full):
                    tree[path] = (DIRECTORY, b"")
            else:
                type_ = EXECUTABLE if os.stat(full).st_mode & 0o100 else FILE
                with open(full, "rb") as file:
                    tree[path] = (type_, file.read())
    return tree


def make_on_disk(top: Path, tree: Tree) -> None:
    for path, (type_, content) in tree.items():
        full = os.path.join(os.fsencode(top), path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if type_ is DIRECTORY:
            os.makedirs(full)
        elif type_ is SYMLINK:
            os.symlink(content, full)
        else:
            with open(full, "wb") as file:
                file.write(content)
            os.chmod(full, 0o755 if type_ is EXECUTABLE else 0o644)


def run_tar(*arguments: str | Path, **options: Any) -> bytes:
    done = subprocess.run(["tar", *arguments], capture_output=True, check=True, **options)
    return bytes(done.stdout)


def test_gnu_tar_extracts_the_same_tree(tmp_path):
    """What GNU tar makes of our tarball is the tree, byte for byte, names included."""
    require("gnutar")
    store = MemoryStore()
    archive = tmp_path / "t.tar.gz"
    archive.write_bytes(packed(store, put_tree(store, AWKWARD)))
    target = tmp_path / "target"
    target.mkdir()
    run_tar("-xzf", archive, "-C", target)
    assert on_disk(target) == AWKWARD
    names = [path + b"/" * (AWKWARD[path][0] is DIRECTORY) + b"\n" for path in sorted(AWKWARD)]
    assert run_tar("-tzf", archive, "--quoting-style=literal") == b"".join(names)


def test_python_tarfile_extracts_the_same_tree(tmp_path):
    """Members read with tarfile have the names, types and contents of the tree."""
    store = MemoryStore()
    data = packed(store, put_tree(store, AWKWARD))
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            name = os.fsencode(member.name)
            if member.isdir():
                found[name] = (DIRECTORY, b"")
            elif member.issym():
                found[name] = (SYMLINK, os.fsencode(member.linkname))
            else:
                file = archive.extractfile(member)
                assert file is not None
                found[name] = (EXECUTABLE if member.mode & 0o100 else FILE, file.read())
    assert found == AWKWARD


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax"])
@pytest.mark.parametrize("compress", [True, False])
def test_we_read_what_gnu_tar_writes(tmp_path, form, compress):
    """A folder packed with GNU tar, with `./` before each name, is the tree."""
    require("gnutar")
    top = tmp_path / "top"
    top.mkdir()
    make_on_disk(top, AWKWARD)
    archive = tmp_path / "archive"
    how = "-czf" if compress else "-cf"
    run_tar(f"--format={form}", how, archive, "-C", top, ".")
    assert read_tree(archive.read_bytes()) == AWKWARD


@pytest.mark.parametrize("form", ["v7", "ustar"])
def test_we_read_old_forms(tmp_path, form):
    """v7 has no magic and no types beyond links; ustar has prefixes."""
    require("gnutar")
    tree = {path: AWKWARD[path] for path in (b"a", b"a.d/b", b"empty", b"link", b"latin-\xe9\xff")}
    make_on_disk(tmp_path, tree)
    data = run_tar(f"--format={form}", "-c", *map(os.fsdecode, tree), cwd=tmp_path)
    assert read_tree(data) == tree


def test_hard_links_of_gnu_tar_become_files(tmp_path):
    """Each name of a file with several is a file of its own."""
    require("gnutar")
    (tmp_path / "a").write_bytes(b"same")
    os.link(tmp_path / "a", tmp_path / "b")
    data = run_tar("-c", ".", cwd=tmp_path)
    assert read_tree(data) == {b"a": (FILE, b"same"), b"b": (FILE, b"same")}


def test_sparse_files_of_gnu_tar_are_refused(tmp_path):
    """A file stored in pieces is refused in the three forms that GNU tar has for it."""
    require("gnutar")
    with (tmp_path / "holes").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    for form in (
        ["--format=gnu"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
    ):
        data = run_tar("-c", "--sparse", *form, "holes", cwd=tmp_path)
        with pytest.raises(Invalid, match="sparse"):
            read_tree(data)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_we_read_what_python_writes(form):
    """Tarfile's three formats, with a global header where it writes one."""
    tree = dict(AWKWARD)
    if form == tarfile.USTAR_FORMAT:
        fits = {p: e for p, e in AWKWARD.items() if len(p) < 99}
        tree = {p: e for p, e in fits.items() if e[0] is not SYMLINK or len(e[1]) < 100}
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=form, pax_headers={"comment": "of the whole archive"}
    ) as archive:
        for path, (type_, content) in tree.items():
            member = tarfile.TarInfo(os.fsdecode(path))
            member.mode = 0o755 if type_ is EXECUTABLE else 0o644
            member.mtime = 1_700_000_000.5 if form == tarfile.PAX_FORMAT else 17
            if type_ is SYMLINK:
                member.type, member.linkname = tarfile.SYMTYPE, os.fsdecode(content)
            elif type_ is DIRECTORY:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert read_tree(out.getvalue()) == tree


def test_sizes_beyond_octal_are_read_by_others(tmp_path):
    """GNU tar and tarfile find the member after one of 8 GiB and more."""
    require("gnutar")
    size = (8 << 30) + 5
    archive = tmp_path / "sparse.tar"
    with archive.open("wb") as file:
        file.write(encode_member(b"big", b"0", 0o644, size))
        file.seek(size + -size % 512, os.SEEK_CUR)
        file.write(encode_member(b"next", b"0", 0o644, 0) + bytes(1024))
    lines = run_tar("-tvf", archive).splitlines()
    assert [line.split()[2] for line in lines] == [b"%d" % size, b"0"]
    with tarfile.open(archive) as opened:
        assert [(member.name, member.size) for member in opened] == [("big", size), ("next", 0)]


# --- What we read --------------------------------------------------------------------


def member(name: str, content: bytes = b"", type_: bytes = b"0", **fields: Any) -> bytes:
    """Return one ustar member, made by tarfile, with any name and any fields."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = type_, len(content), 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    block = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    return block + content + bytes(-len(content) % 512)


def patched(block: bytes, at: int, new: bytes) -> bytes:
    """Return a member with bytes of its header replaced, and the checksum made right."""
    header = block[:at] + new + block[at + len(new) : 512]
    header = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:] + block[512:]


def pax(*records: tuple[str, bytes], type_: bytes = b"x") -> bytes:
    body = b""
    for key, value in records:
        rest = b" " + key.encode() + b"=" + value + b"\n"
        length = next(n for n in range(10_000) if n == len(str(n)) + len(rest))
        body += b"%d" % length + rest
    return member("pax", body, type_)


END = bytes(1024)
BIG = bytes(100_000)


class Hostile(NamedTuple):
    """An archive that is refused, and why."""

    why: str
    archive: bytes
    kind: type[GsyncError] = Invalid
    says: str = ""
    limits: TarLimits | None = None


def wrong_crc() -> bytes:
    data = bytearray(gzip.compress(member("a", b"1") + END, mtime=0))
    data[-8] ^= 1
    return bytes(data)


def wrong_length() -> bytes:
    data = bytearray(gzip.compress(member("a", b"1") + END, mtime=0))
    data[-1] ^= 1
    return bytes(data)


GOOD = member("a", b"1") + END
HOSTILE = [
    Hostile("an absolute path", member("/etc/passwd", b"x") + END, says="/etc/passwd"),
    Hostile("an absolute path behind ./", member(".//etc/passwd", b"x") + END),
    Hostile("a path that climbs out", member("../x") + END, says="../x"),
    Hostile("a path that climbs out later", member("a/../../x") + END),
    Hostile("a path that climbs out behind ./", member("./../x") + END),
    Hostile("a path with a dot in the middle", member("a/./b") + END),
    Hostile("a path with an empty component", member("a//b") + END),
    Hostile("a path that climbs out with backslashes", member("..\\..\\x") + END),
    Hostile("a drive with backslashes", member("C:\\x") + END),
    Hostile("the tool's own folder", member(".gsync/config.toml", b"x") + END, says=".gsync"),
    Hostile("the tool's own folder in capitals", member("a/.GSYNC/config.toml", b"x") + END),
    Hostile("the tool's own folder as a directory", member(".gsync", type_=b"5") + END),
    Hostile("a NUL in a name", pax(("path", b"a\0b")) + GOOD, says="NUL"),
    Hostile("an empty name", member("") + END),
    Hostile("a component of 256 bytes", pax(("path", b"a" * 256)) + GOOD, says="255"),
    Hostile("an absolute path in a pax header", pax(("path", b"/etc/x")) + GOOD),
    Hostile("a directory that climbs out", member("..", type_=b"5") + END),
    Hostile("a directory that is the root", member("/", type_=b"5") + END),
    Hostile("a file named like a directory", member("a/", b"1") + END, says="a/"),
    Hostile("a hard link to a file outside", member("a", type_=b"1", linkname="/etc/passwd") + END),
    Hostile(
        "a hard link to a file that comes later",
        member("a", type_=b"1", linkname="b") + member("b") + END,
        says="no file before it",
    ),
    Hostile("a hard link to itself", member("a", type_=b"1", linkname="a") + END),
    Hostile(
        "a hard link to a directory",
        member("d", type_=b"5") + member("a", type_=b"1", linkname="d") + END,
    ),
    Hostile(
        "a hard link with content",
        member("b") + patched(member("a", type_=b"1", linkname="b"), 124, b"00000000001\0") + END,
        says="content",
    ),
    Hostile(
        "a file below a symlink",
        member("a", type_=b"2", linkname="/etc") + member("a/passwd", b"x") + END,
        says="symlink",
    ),
    Hostile(
        "a file below a symlink that comes later",
        member("a/b/passwd", b"x") + member("a", type_=b"2", linkname="/etc") + END,
        says="symlink",
    ),
    Hostile(
        "a directory below a symlink",
        member("a", type_=b"2", linkname="/etc") + member("a/d", type_=b"5") + END,
        says="symlink",
    ),
    Hostile("a symlink to nothing", member("a", type_=b"2") + END, says="target"),
    Hostile(
        "a symlink to 4,096 bytes",
        pax(("linkpath", b"x" * 4096)) + member("a", type_=b"2") + END,
        says="target",
    ),
    Hostile("a character device", member("a", type_=b"3") + END, says="device"),
    Hostile("a block device", member("a", type_=b"4") + END, says="device"),
    Hostile("a FIFO", member("a", type_=b"6") + END, says="FIFO"),
    Hostile("a GNU sparse file", member("a", type_=b"S") + END, says="sparse"),
    Hostile("a pax sparse file", pax(("GNU.sparse.major", b"1")) + GOOD, says="sparse"),
    Hostile("a part of another volume", member("a", type_=b"M") + END, says="volume"),
    Hostile("an unknown type", member("a", type_=b"Z") + END, says="unknown type"),
    Hostile("the same name twice", member("a", b"1") + member("./a", b"2") + END, says="second"),
    Hostile("the same symlink twice", 2 * member("a", type_=b"2", linkname="b") + END),
    Hostile("a file and a directory", member("a") + member("a", type_=b"5") + END),
    Hostile("a directory and a file", member("a", type_=b"5") + member("a") + END),
    Hostile("a file with a file below it", member("a") + member("a-b") + member("a/b") + END),
    Hostile("a directory with content", member("a", b"1", type_=b"5") + END, says="content"),
    Hostile("a header with a wrong checksum", GOOD[:10] + b"x" + GOOD[11:], says="checksum"),
    Hostile(
        "a second header with a wrong checksum",
        member("a", b"1") + b"x" + member("b")[1:] + END,
        says="checksum",
    ),
    Hostile("a size that is no number", patched(GOOD, 124, b"0000000000x\0"), says="size"),
    Hostile("a negative size", patched(GOOD, 124, b"\xff" * 12), says="size"),
    Hostile(
        "a size beyond 64 bits", patched(GOOD, 124, b"\x80" + b"\xff" * 11), TooLarge, says="a"
    ),
    Hostile("a pax size that is no number", pax(("size", b"-1")) + GOOD, says="size"),
    Hostile("a pax record that is too long", member("pax", b"99 path=a\n", b"x") + GOOD),
    Hostile("a pax record without a length", member("pax", b"path=a\n", b"x") + GOOD),
    Hostile("a pax record of length 0", member("pax", b"0 path=a\n", b"x") + GOOD),
    Hostile("a pax path twice", pax(("path", b"a"), ("path", b"b")) + GOOD, says="twice"),
    Hostile("two pax headers", pax(("path", b"a")) + pax(("path", b"b")) + GOOD, says="twice"),
    Hostile("a long name and a pax path", member("x", b"a\0", b"L") + pax(("path", b"b")) + GOOD),
    Hostile("a global path", pax(("path", b"a"), type_=b"g") + GOOD, says="global"),
    Hostile("a pax header at the end", pax(("path", b"a")) + END, says="no entry after"),
    Hostile("names in an unknown charset", pax(("hdrcharset", b"KOI8")) + GOOD, says="character"),
    Hostile("a pax header of 2 MiB", member("p", bytes(2 << 20), b"x") + GOOD, TooLarge),
    Hostile("nothing", b"", says="empty"),
    Hostile("text", b"hello, world\n" * 100, says="not a tar archive"),
    Hostile("less than a block", b"hello", says="cut off"),
    Hostile("xz", b"\xfd7zXZ\0" + bytes(600), says="xz"),
    Hostile("cut off inside a header", GOOD[:300], says="cut off"),
    Hostile("cut off inside a content", (member("a", BIG) + END)[:50_000], says="cut off"),
    Hostile("no end", member("a", b"1"), says="cut off"),
    Hostile("one block of zeros for an end", member("a", b"1") + bytes(512), says="cut off"),
    Hostile("a block of zeros in between", bytes(512) + GOOD, says="one block of zeros"),
    Hostile("another archive after the end", GOOD + GOOD, says="after the end"),
    Hostile("a byte after the end", GOOD + b"x", says="after the end"),
    Hostile(
        "a byte after the end, in gzip", gzip.compress(GOOD + b"x", mtime=0), says="after the end"
    ),
    Hostile("a byte after gzip", gzip.compress(GOOD, mtime=0) + b"x", says="gzip"),
    Hostile("gzip cut off", gzip.compress(GOOD, mtime=0)[:-20], says="cut off"),
    Hostile("gzip without its checksum", gzip.compress(GOOD, mtime=0)[:-8], says="gzip"),
    Hostile("gzip with half a checksum", gzip.compress(GOOD, mtime=0)[:-5], says="gzip"),
    Hostile("gzip with a wrong checksum", wrong_crc(), says="gzip"),
    Hostile("gzip with a wrong length", wrong_length(), says="gzip"),
    Hostile(
        "gzip of something damaged", gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 50, says="gzip"
    ),
    Hostile("gzip of nothing", gzip.compress(b"", mtime=0), says="cut off"),
    Hostile(
        "more entries than allowed",
        b"".join(member(f"a{n}") for n in range(4)) + END,
        TooLarge,
        "a3",
        TarLimits(entries_max=3),
    ),
    Hostile(
        "more directories than allowed, all the same",
        4 * member("a", type_=b"5") + END,
        TooLarge,
        limits=TarLimits(entries_max=3),
    ),
    Hostile(
        "more names than allowed",
        member("a" * 60) + member("b" * 60) + END,
        TooLarge,
        "names",
        TarLimits(names_bytes_max=100),
    ),
    Hostile(
        "a file larger than allowed",
        member("a", BIG) + END,
        TooLarge,
        "a: 100000 bytes",
        TarLimits(file_bytes_max=99_999),
    ),
    Hostile(
        "files larger together than allowed",
        member("a", BIG) + member("b", BIG) + END,
        TooLarge,
        "entry b",
        TarLimits(total_bytes_max=150_000),
    ),
    Hostile(
        "zeros without end after the end",
        gzip.compress(GOOD + bytes(200_000), mtime=0),
        TooLarge,
        limits=TarLimits(total_bytes_max=150_000),
    ),
    Hostile(
        "a size that is announced and never comes",
        patched(GOOD, 124, b"77777777777\0"),
        TooLarge,
        "entry a",
        TarLimits(total_bytes_max=1 << 30),
    ),
    Hostile(
        "a bomb",
        gzip.compress(member("a", bytes(20 << 20)) + END),
        TooLarge,
        "to one",
        TarLimits(ratio_max=500),
    ),
]


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.why)
def test_hostile_archives_are_refused(case: Hostile):
    """Each guard refuses its archive with the kind and the words that belong to it."""
    with pytest.raises(case.kind) as caught:
        read_tarball(io.BytesIO(case.archive), MemoryStore(), limits=case.limits)
    assert case.says in caught.value.message
    assert len(caught.value.message) < 20_000


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.why)
def test_what_is_held_back_is_checked_all_the_same(case: Hostile):
    """A guard does not rest because the member would not have been taken in."""
    with pytest.raises(case.kind):
        read_tarball(
            io.BytesIO(case.archive),
            MemoryStore(),
            limits=case.limits,
            accept=lambda path: "not today",
        )


@pytest.mark.parametrize(
    ("archive", "expected"),
    [
        (END, {}),
        (bytes(512) * 20, {}),
        (member("./", type_=b"5") + member("./a", b"1") + END, {b"a": (FILE, b"1")}),
        (member(".", type_=b"5") + member("././a", b"1") + END, {b"a": (FILE, b"1")}),
        (2 * member("d", type_=b"5") + END, {b"d": (DIRECTORY, b"")}),
        (
            member("d", type_=b"5") + member("d-e", b"") + member("d/a", b"1") + END,
            {b"d-e": (FILE, b""), b"d/a": (FILE, b"1")},
        ),
        (
            member("d/a", b"1") + member("d", type_=b"5") + END,
            {b"d/a": (FILE, b"1")},
        ),
        (member("b", b"2") + member("a", b"1") + END, {b"a": (FILE, b"1"), b"b": (FILE, b"2")}),
        (
            member("b", b"2", mode=0o700) + member("a", type_=b"1", linkname="./b") + END,
            {b"a": (EXECUTABLE, b"2"), b"b": (EXECUTABLE, b"2")},
        ),
        (member("a", b"1", b"7") + END, {b"a": (FILE, b"1")}),
        (member("a", b"1", b"\0") + END, {b"a": (FILE, b"1")}),
        (member("label", type_=b"V") + member("a") + END, {b"a": (FILE, b"")}),
        (pax(("mtime", b"1.5"), ("SCHILY.xattr.user.x", b"\0=\n")) + GOOD, {b"a": (FILE, b"1")}),
        (pax(("comment", b"x"), type_=b"g") + GOOD, {b"a": (FILE, b"1")}),
        (member("x", b"long\0", b"L") + GOOD, {b"long": (FILE, b"1")}),
        (
            gzip.compress(GOOD[:700], mtime=0) + gzip.compress(GOOD[700:], mtime=0),
            {b"a": (FILE, b"1")},
        ),
        (gzip.compress(GOOD, mtime=0) + bytes(1000), {b"a": (FILE, b"1")}),
    ],
)
def test_odd_archives_are_read(archive, expected):
    """What is unusual and clear is taken as it is meant."""
    assert read_tree(archive) == expected


def test_old_directories_end_with_a_slash():
    """In v7 a directory is a file of no bytes whose name ends with a slash."""
    block = patched(member("d", type_=b"5"), 156, b"\0")
    assert read_tree(block + END) == {b"d": (DIRECTORY, b"")}


def test_old_checksums_sum_signed_bytes():
    """The sum of signed bytes is accepted where the unsigned one fails."""
    block = member("\udcff")
    outside = block[:148] + b" " * 8 + block[156:512]
    signed = sum(byte - 256 if byte > 127 else byte for byte in outside)
    block = block[:148] + b"%06o\0 " % signed + block[156:]
    assert read_tree(block + END) == {b"\xff": (FILE, b"")}


def test_what_is_held_back_is_told():
    """`accept` sees each path, and what it turns away is not in the tree or the store."""
    archive = (
        member(".env", b"SECRET")
        + member("a", b"1")
        + member("copy", type_=b"1", linkname=".env")
        + member("keys", type_=b"5")
        + member("build", type_=b"5")
        + member("keys/id_rsa", b"SECRET" * 50_000)
        + END
    )
    secrets = {b".env", b"keys/id_rsa", b"build/"}
    store = MemoryStore()
    read = read_tarball(
        io.BytesIO(archive), store, accept=lambda path: "secret" if path in secrets else None
    )
    assert get_tree(store, read.root) == {b"a": (FILE, b"1")}
    assert read.held_back == (
        HeldBack(b".env", "secret"),
        HeldBack(b"copy", "a hard link to .env, which is held back"),
        HeldBack(b"build/", "secret"),
        HeldBack(b"keys/id_rsa", "secret"),
    )
    assert not any(b"SECRET" in body for _, body in store._bodies.values())


def test_a_source_may_give_a_byte_at_a_time():
    """Short reads, as from a socket, change nothing."""

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(1)

    store = MemoryStore()
    root = put_tree(store, {b"a": (FILE, blake3(b"a").digest(3000)), b"b": (EXECUTABLE, b"1")})
    assert read_tarball(Slow(packed(store, root)), MemoryStore()).root == root


def test_every_cut_and_every_flip_is_noticed():
    """No damage to a tarball of ours gives another tree: it is refused or gives the same."""
    store = MemoryStore()
    root = put_tree(store, {b"a": (FILE, b"1"), b"b/c": (SYMLINK, b"../a"), b"d": (DIRECTORY, b"")})
    data = packed(store, root)
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]):
            try:
                read = read_tarball(io.BytesIO(damaged), MemoryStore())
            except GsyncError:
                continue
            assert read.root == root  # in the gzip header: the comment, or the time


@given(st.data())
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(data):
    """Whatever stands in an archive, the answer is a tree or an error of ours."""
    archive = bytearray(member("a", b"1") + pax(("path", b"b" * 120)) + member("x", b"2") + END)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(archive) - 1))
        archive[at : at + 1] = data.draw(st.binary(max_size=3))
        if data.draw(st.booleans()):  # past the checksum
            start = at - at % 512
            block = bytes(archive[start : start + 512])
            if len(block) == 512:
                archive[start : start + 512] = patched(block, 0, b"")
    try:
        read_tarball(io.BytesIO(bytes(archive)), MemoryStore())
    except GsyncError:
        pass


MEMORY = """
import sys, tempfile
sys.path[:0] = {path!r}
from test_tarball import bounded_round_trip
bounded_round_trip(tempfile.TemporaryFile(), tempfile.TemporaryFile())
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_memory_does_not_follow_the_size_of_a_file():
    """A file of 200 MB is read and written within 150 MiB for the whole process."""
    script = MEMORY.format(path=[str(Path(__file__).parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(done.stdout) < 150 << 10


def bounded_round_trip(bodies: Any, archive: Any) -> None:
    """Read 200 MB into a store on disk, write them, and read them again."""

    class DiskStore(MemoryStore):
        places: dict[ObjectId, tuple[int, int]] = {}

        def put(self, kind: Kind, body: bytes, near: ObjectId | None = None) -> ObjectId:
            if kind is not Kind.BLOB:
                return super().put(kind, body)
            oid = ObjectId(blake3(body).digest())
            if oid not in self.places:
                self.places[oid] = (bodies.seek(0, os.SEEK_END), len(body))
                bodies.write(body)
            return oid

        def get(self, kind: Kind, oid: ObjectId) -> bytes:
            if kind is not Kind.BLOB:
                return super().get(kind, oid)
            at, size = self.places[oid]
            bodies.seek(at)
            return bytes(bodies.read(size))

    size = 200_000_000
    archive.write(encode_member(b"big", b"0", 0o644, size))
    hasher = blake3(b"big")
    for at in range(0, size, 1 << 20):
        archive.write(hasher.digest(min(1 << 20, size - at), seek=at))
    archive.write(bytes(-size % 512) + END)
    store = DiskStore()
    archive.seek(0)
    root = read_tarball(archive, store).root
    archive.seek(0)
    archive.truncate()
    write_tarball(store, root, archive)
    archive.seek(0)
    assert read_tarball(archive, store).root == root


# --- Vectors -------------------------------------------------------------------------


def vector_tree(entries: list[dict[str, Any]]) -> dict[bytes, tuple[EntryType, bytes]]:
    tree = {}
    for entry in entries:
        content = bytes.fromhex(entry["content"]) * entry.get("times", 1)
        tree[bytes.fromhex(entry["path"])] = (EntryType(entry["type"]), content)
    return tree


@pytest.mark.parametrize("case", VECTORS["trees"], ids=lambda case: case["why"])
def test_vector_trees(case):
    """Each tree has the tar bytes of the vector, and they read back to its root."""
    store = MemoryStore()
    root = put_tree(store, vector_tree(case["entries"]))
    assert root.hex() == case["root"]
    data = packed(store, root)
    tar = gzip.decompress(data)
    assert tar == gzip.decompress(base64.b64decode(case["archive"]))
    assert blake3(tar).hexdigest() == case["tar_blake3"]
    assert len(tar) == case["tar_bytes"]


@pytest.mark.parametrize("case", VECTORS["accept"], ids=lambda case: case["why"])
def test_vector_archives_to_accept(case):
    """Each archive has the root of the vector."""
    archive = base64.b64decode(case["archive"])
    assert read_tarball(io.BytesIO(archive), MemoryStore()).root.hex() == case["root"]


@pytest.mark.parametrize("case", VECTORS["reject"], ids=lambda case: case["why"])
def test_vector_archives_to_reject(case):
    """Each archive is refused with the kind of the vector."""
    with pytest.raises(GsyncError) as caught:
        read_tarball(
            io.BytesIO(base64.b64decode(case["archive"])),
            MemoryStore(),
            limits=TarLimits(**case.get("limits", {})),
        )
    assert caught.value.kind == case["kind"]
