"""The table of spec/13-merge for files, in plain words, and over generated trees."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.changes import Change, MergeConflict
from gsync.maps.merge import merge_maps
from gsync.maps.omap import build_map, edit_map, list_entries
from gsync.objects.chunk_list import ChunkListBuilder, list_chunks
from gsync.objects.chunking import split_buffers
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind, ObjectId, blob_id
from gsync.paths import check_sorted_paths
from gsync.store.memory import MemoryStore
from gsync.views.files import EntryType, FileEntry, decode_entry, encode_entry
from gsync.views.mergefiles import FileMerger, find_path_conflicts, is_text

Tree = dict[str, str]
"""Path -> `-content` of a file, `xcontent` if executable, `>target`, `/` for an empty directory."""

TYPES = {"-": EntryType.FILE, "x": EntryType.EXECUTABLE, ">": EntryType.SYMLINK}


class Trees:
    """Merges trees that are written down as text."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def entry(self, text: str | None) -> bytes | None:
        if text is None:
            return None
        if text == "/":
            return encode_entry(FileEntry(EntryType.DIRECTORY, 0, None))
        return self.file(TYPES[text[0]], text[1:].encode())

    def file(self, type_: EntryType, content: bytes) -> bytes:
        if len(content) <= 131_072:
            ref = Reference(Kind.BLOB, self.store.put(Kind.BLOB, content), len(content))
            return encode_entry(FileEntry(type_, len(content), ref))
        builder = ChunkListBuilder(self.store.put)
        for chunk in split_buffers([content]):
            builder.add(Reference(Kind.BLOB, self.store.put(Kind.BLOB, chunk), len(chunk)))
        return encode_entry(FileEntry(type_, len(content), builder.finish(), blob_id(content)))

    def build(self, tree: Tree) -> ObjectId:
        entries = [(path.encode(), self.entry(tree[path]) or b"") for path in tree]
        return build_map(self.store, sorted(entries))

    def load(self, ref: Reference) -> bytes:
        if ref.kind is Kind.BLOB:
            return self.store.get(Kind.BLOB, ref.oid)
        chunks = list_chunks(lambda oid: self.store.get(Kind.CHUNK_LIST, oid), ref)
        return b"".join(self.store.get(Kind.BLOB, chunk.oid) for chunk in chunks)

    def text(self, value: bytes) -> str:
        entry = decode_entry(value)
        if entry.ref is None:
            return "/"
        mark = next(mark for mark, type_ in TYPES.items() if type_ is entry.type)
        return mark + self.load(entry.ref).decode()

    def merge(self, base: Tree, ours: Tree, theirs: Tree) -> tuple[Tree, dict[str, str]]:
        """Return the merged tree and the kinds of conflict by path."""
        old, mine, other = (self.build(tree) for tree in (base, ours, theirs))
        merger = FileMerger(self.load, self.store.put)
        outcomes = find_path_conflicts(
            self.store, old, mine, merge_maps(self.store, old, mine, other, merger.combine)
        )
        assert [o.key for o in outcomes] == sorted({o.key for o in outcomes})
        changes = [o for o in outcomes if isinstance(o, Change)]
        for change in changes:
            assert change.old == self.entry(ours.get(change.key.decode()))
        for o in outcomes:
            if isinstance(o, MergeConflict):
                sides = (
                    base.get(o.key.decode()),
                    ours.get(o.key.decode()),
                    theirs.get(o.key.decode()),
                )
                assert (o.base, o.ours, o.theirs) == tuple(map(self.entry, sides))
        root = edit_map(self.store, mine, [(change.key, change.new) for change in changes])
        found = dict(list_entries(self.store, root))
        assert list(check_sorted_paths(found)) == list(found)
        return (
            {path.decode(): self.text(value) for path, value in found.items()},
            {o.key.decode(): o.kind for o in outcomes if isinstance(o, MergeConflict)},
        )


LINES = "-1\n2\n3\n4\n5\n"
TOP, END, BOTH = LINES.replace("1", "one"), LINES.replace("5", "five"), "-one\n2\n3\n4\nfive\n"
NO: Tree = {}

# what it is, base, ours, theirs, merged, conflicts
CASES: list[tuple[str, Tree, Tree, Tree, Tree, dict[str, str]]] = [
    ("each edits another file", {"a": "-1", "b": "-1"}, {"a": "-2", "b": "-1"},
     {"a": "-1", "b": "-2"}, {"a": "-2", "b": "-2"}, {}),
    ("each adds and deletes", {"a": "-1", "b": "-1"}, {"b": "-1", "c": "-1"},
     {"a": "-1", "d": "-1"}, {"c": "-1", "d": "-1"}, {}),
    ("both delete", {"a": "-1"}, NO, NO, NO, {}),
    ("both add the same", NO, {"a": "-1"}, {"a": "-1"}, {"a": "-1"}, {}),
    ("both add, not the same", NO, {"a": "-1"}, {"a": "-2"}, {"a": "-1"}, {"a": "add/add"}),
    ("deleted, edited", {"a": "-1"}, NO, {"a": "-2"}, NO, {"a": "delete/edit"}),
    ("edited, deleted", {"a": "-1"}, {"a": "-2"}, NO, {"a": "-2"}, {"a": "edit/delete"}),
    ("deleted, made executable", {"a": "-1"}, NO, {"a": "x1"}, NO, {"a": "delete/edit"}),
    ("edits of lines apart", {"a": LINES}, {"a": TOP}, {"a": END}, {"a": BOTH}, {}),
    ("edits of one line", {"a": LINES}, {"a": TOP}, {"a": LINES.replace("1", "uno")},
     {"a": TOP}, {"a": "edit/edit"}),
    ("edits of lines in a file with NUL", {"a": LINES + "\0"}, {"a": TOP + "\0"},
     {"a": END + "\0"}, {"a": TOP + "\0"}, {"a": "edit/edit"}),
    ("edited, made executable", {"a": "-1"}, {"a": "-2"}, {"a": "x1"}, {"a": "x2"}, {}),
    ("made executable, edited", {"a": "-1"}, {"a": "x1"}, {"a": "-2"}, {"a": "x2"}, {}),
    ("no longer executable, edited", {"a": "x1"}, {"a": "-1"}, {"a": "x2"}, {"a": "-2"}, {}),
    ("edits apart, made executable", {"a": LINES}, {"a": "x" + TOP[1:]}, {"a": END},
     {"a": "x" + BOTH[1:]}, {}),
    ("the same edit, one executable", {"a": "-1"}, {"a": "-2"}, {"a": "x2"}, {"a": "x2"}, {}),
    ("the same file added, one executable", NO, {"a": "-1"}, {"a": "x1"}, {"a": "x1"}, {}),
    ("symlink turned twice", {"a": ">1"}, {"a": ">2"}, {"a": ">3"}, {"a": ">2"},
     {"a": "edit/edit"}),
    ("two symlinks added", NO, {"a": ">2"}, {"a": ">3"}, {"a": ">2"}, {"a": "add/add"}),
    ("symlink turned, deleted", {"a": ">1"}, {"a": ">2"}, NO, {"a": ">2"}, {"a": "edit/delete"}),
    ("file edited, made a symlink", {"a": "-1"}, {"a": "-2"}, {"a": ">1"}, {"a": "-2"},
     {"a": "type"}),
    ("file and symlink added", NO, {"a": ">1"}, {"a": "-1"}, {"a": ">1"}, {"a": "type"}),
    ("symlink made two files", {"a": ">1"}, {"a": "-1"}, {"a": "-2"}, {"a": "-1"},
     {"a": "edit/edit"}),
    ("file and directory added", NO, {"a": "-1"}, {"a/b": "-1", "a/c": "-1"}, {"a": "-1"},
     {"a": "file/directory", "a/b": "file/directory", "a/c": "file/directory"}),
    ("directory and file added", NO, {"a/b": "-1", "a/c/d": "-1"}, {"a": "-1"},
     {"a/b": "-1", "a/c/d": "-1"},
     {"a": "file/directory", "a/b": "file/directory", "a/c/d": "file/directory"}),
    ("a file among names like it", {"a-b": "-1"}, {"a": "-1", "a-b": "-1"},
     {"a-b": "-2", "a/b": "-1"}, {"a": "-1", "a-b": "-2"},
     {"a": "file/directory", "a/b": "file/directory"}),
    ("file edited, made a directory", {"a": "-1"}, {"a": "-2"}, {"a/b": "-1"}, {"a": "-2"},
     {"a": "edit/delete", "a/b": "file/directory"}),
    ("file kept, made a directory", {"a": "-1"}, {"a": "-1"}, {"a/b": "-1"}, {"a/b": "-1"}, {}),
    ("directory made a file, kept", {"a/b": "-1"}, {"a": "-1"}, {"a/b": "-1"}, {"a": "-1"}, {}),
    ("directory made a file, edited", {"a/b": "-1", "a/c": "-1"}, {"a": "-1"},
     {"a/b": "-2", "a/c": "-1"}, {"a": "-1"}, {"a": "file/directory", "a/b": "delete/edit"}),
    ("directory made a file, added to", {"a/b": "-1"}, {"a": "-1"}, {"a/b": "-1", "a/c": "-1"},
     {"a": "-1"}, {"a": "file/directory", "a/c": "file/directory"}),
    ("edited, directory made a file", {"a/b": "-1"}, {"a/b": "-2"}, {"a": "-1"}, {"a/b": "-2"},
     {"a": "file/directory", "a/b": "edit/delete"}),
    ("empty directory and files added", NO, {"a": "/"}, {"a/b": "-1"}, {"a/b": "-1"}, {}),
    ("files and empty directory added", NO, {"a/b": "-1"}, {"a": "/"}, {"a/b": "-1"}, {}),
    ("empty directory kept, filled", {"a": "/"}, {"a": "/"}, {"a/b": "-1"}, {"a/b": "-1"}, {}),
    ("empty directory removed, filled", {"a": "/"}, NO, {"a/b": "-1"}, {"a/b": "-1"}, {}),
    ("empty directory and file added", NO, {"a": "/"}, {"a": "-1"}, {"a": "/"},
     {"a": "file/directory"}),
    ("empty directory and symlink added", NO, {"a": ">b"}, {"a": "/"}, {"a": ">b"},
     {"a": "file/directory"}),
    ("emptied, edited", {"a/b": "-1"}, {"a": "/"}, {"a/b": "-2"}, NO, {"a/b": "delete/edit"}),
    ("edited, emptied", {"a/b": "-1"}, {"a/b": "-2"}, {"a": "/"}, {"a/b": "-2"},
     {"a/b": "edit/delete"}),
    ("emptied, added to", {"a/b": "-1"}, {"a": "/"}, {"a/b": "-1", "a/c": "-1"}, {"a/c": "-1"},
     {}),
    ("emptied by both together", {"a/b": "-1", "a/c": "-1"}, {"a/b": "-1"}, {"a/c": "-1"}, NO, {}),
    ("emptied by both", {"a/b": "-1"}, {"a": "/"}, {"a": "/"}, {"a": "/"}, {}),
    ("emptied by one, gone with the other", {"a/b": "-1"}, {"a": "/"}, NO, {"a": "/"}, {}),
    ("file made an empty directory, a full one", {"a": "-1"}, {"a": "/"}, {"a/b": "-1"},
     {"a/b": "-1"}, {}),
    ("file made a full directory, an empty one", {"a": "-1"}, {"a/b": "-1"}, {"a": "/"},
     {"a/b": "-1"}, {}),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(case, id=case[0]) for case in CASES])
def test_cases(case: tuple[str, Tree, Tree, Tree, Tree, dict[str, str]]) -> None:
    """Files, links, directories and bits are merged, or are conflicts, as the page says."""
    _, base, ours, theirs, merged, conflicts = case
    assert Trees().merge(base, ours, theirs) == (merged, conflicts)
    assert_symmetric(base, ours, theirs)


def assert_symmetric(base: Tree, ours: Tree, theirs: Tree) -> None:
    one, conflicts = Trees().merge(base, ours, theirs)
    two, swapped = Trees().merge(base, theirs, ours)
    turned = {"delete/edit": "edit/delete", "edit/delete": "delete/edit"}
    assert {path: turned.get(kind, kind) for path, kind in conflicts.items()} == swapped
    for path in conflicts:
        one.pop(path, None)
        two.pop(path, None)
    assert one == two


@given(seed=st.integers(0, 2**32))
def test_any_trees_merge_to_a_legal_tree(seed: int) -> None:
    """Trees with files where others have directories merge to a tree, alike from both sides."""
    r = random.Random(seed)
    base = random_tree(r, {})
    ours, theirs = random_tree(r, base), random_tree(r, base)
    trees = Trees()
    merged, conflicts = trees.merge(base, ours, theirs)
    assert_symmetric(base, ours, theirs)
    assert trees.merge(base, ours, base) == trees.merge(base, base, ours) == (ours, {})
    for path in base.keys() | ours.keys() | theirs.keys():
        if path in conflicts or "/" in (ours.get(path), theirs.get(path)):
            continue
        if ours.get(path) == base.get(path):
            assert merged.get(path) == theirs.get(path)
        elif theirs.get(path) in (ours.get(path), base.get(path)):
            assert merged.get(path) == ours.get(path)


def random_tree(r: random.Random, base: Tree) -> Tree:
    tree = {path: text for path, text in base.items() if r.random() < 0.7}
    for _ in range(r.randint(0, 4)):
        path = "/".join(r.choice("ab") for _ in range(r.randint(1, 3)))
        for other in list(tree):
            if other.startswith(path + "/") or path.startswith(other + "/"):
                del tree[other]
        tree[path] = r.choice(["-1", "-2", "x1", ">1", "/"])
    return tree


def test_a_path_deleted_by_ours_and_kept_is_no_obstacle() -> None:
    """Deleting a directory while the other side adds a file of its name costs no conflict."""
    base = {"a/b": "-1", "a/c": "-1"}
    assert Trees().merge(base, {}, {"a": "-1"}) == ({"a": "-1"}, {})


def test_large_texts_become_chunk_lists() -> None:
    """A merged text above the size of a blob is stored as any content of its size is."""
    trees = Trees()
    text = "".join(f"{i:010d}\n" for i in range(19_000))
    sides = [text, text.replace("0000000001\n", "one\n"), text.replace("0000018000\n", "last\n")]
    merged = sides[1].replace("0000018000\n", "last\n").encode()
    base, ours, theirs = (trees.file(EntryType.FILE, side.encode()) for side in sides)
    found = FileMerger(trees.load, trees.store.put).combine(b"a", base, ours, theirs)
    assert found == (trees.file(EntryType.FILE, merged), None)


@pytest.mark.parametrize(
    ("description", "content", "expected"),
    [
        ("nothing", b"", True),
        ("text", "zwölf\n".encode(), True),
        ("Latin-1", "zwölf\n".encode("latin-1"), False),
        ("NUL", b"a\0b", False),
        ("1 MiB", b"a" * (1 << 20), True),
        ("a byte more", b"a" * ((1 << 20) + 1), False),
        ("20,000 lines", b"\n" * 20_000, True),
        ("a line more", b"\n" * 20_000 + b"a", False),
    ],
)
def test_what_is_text(description: str, content: bytes, expected: bool) -> None:
    """Text has no NUL, is UTF-8, and is not too long to be merged by lines."""
    assert is_text(content) is expected


def test_contents_are_loaded_only_for_texts_edited_twice() -> None:
    """No content is read for a change of the bit, for one side's edit, or beyond the limit."""
    trees = Trees()

    def fail(ref: Reference) -> bytes:
        raise AssertionError(f"{ref} was read")

    merger = FileMerger(fail, trees.store.put)
    one, two, two_x = trees.entry("-1"), trees.entry("-2"), trees.entry("x2")
    assert merger.combine(b"a", one, two, two_x) == (two_x, None)
    huge = [trees.file(EntryType.FILE, c * ((1 << 20) + 1)) for c in (b"a", b"b", b"c")]
    assert merger.combine(b"a", *huge).conflict == "edit/edit"
