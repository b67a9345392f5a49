"""What becomes of a path that both sides changed (13-merge, sections 3 to 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from gsync.changes import Change, MergeConflict
from gsync.maps.merge import Combined
from gsync.maps.omap import MapReader, list_entries
from gsync.objects.chunking import CHUNKED_ABOVE_BYTES
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind, ObjectId, blob_id
from gsync.paths import parents_of
from gsync.store.base import ObjectReader
from gsync.views.files import EntryType, FileEntry, decode_entry_trusted, encode_entry
from gsync.views.rows.values import spill_to
from gsync.views.textmerge import count_lines, merge_lines

TEXT_BYTES_MAX = 1 << 20
TEXT_LINES_MAX = 20_000
FILE_DIRECTORY = "file/directory"


class FileMerger:
    """Merges file entries; `combine` is what `merge_maps` takes.

    Args:
        load: Returns the content that a reference stands for; asked for texts of at most
            TEXT_BYTES_MAX that both sides edited.
        put: Keeps the body of an object of a kind and returns its id; a merged text goes there.
    """

    def __init__(
        self, load: Callable[[Reference], bytes], put: Callable[[Kind, bytes], ObjectId]
    ) -> None:
        self._load = load
        self._spill = spill_to(put)

    def combine(
        self, key: bytes, base: bytes | None, ours: bytes | None, theirs: bytes | None
    ) -> Combined:
        """Return the merged entry of a path, or the kind of conflict."""
        if ours is None or theirs is None:
            return Combined(None, "delete/edit" if ours is None else "edit/delete")
        mine, other = decode_entry_trusted(ours), decode_entry_trusted(theirs)
        if not (mine.is_file and other.is_file):
            return Combined(None, _kind_of_two(base, mine.type, other.type))
        old = decode_entry_trusted(base) if base is not None else None
        if old is not None and not old.is_file:
            old = None
        content = self._content(old, mine, other)
        if content is None:
            return Combined(None, "add/add" if base is None else "edit/edit")
        was = old is not None and old.type is EntryType.EXECUTABLE
        now = [entry.type is EntryType.EXECUTABLE for entry in (mine, other)]
        bit = now[0] if now[0] != was else now[1]
        kind = EntryType.EXECUTABLE if bit else EntryType.FILE
        return Combined(encode_entry(FileEntry(kind, content.size, content.ref, content.content)))

    def _content(
        self, base: FileEntry | None, ours: FileEntry, theirs: FileEntry
    ) -> FileEntry | None:
        """Return an entry with the merged content, or None if it cannot be merged."""
        if ours.ref == theirs.ref:
            return ours
        if base is None:
            return None
        if base.ref == theirs.ref:
            return ours
        if base.ref == ours.ref:
            return theirs
        texts = []
        if max(base.size, ours.size, theirs.size) > TEXT_BYTES_MAX:
            return None
        for entry in (base, ours, theirs):
            assert entry.ref is not None  # a file has one
            text = self._load(entry.ref)
            if not is_text(text):
                return None
            texts.append(text)
        merged = merge_lines(*texts)
        if merged is None:
            return None
        ref = self._spill(merged)
        content = blob_id(merged) if len(merged) > CHUNKED_ABOVE_BYTES else None
        return FileEntry(EntryType.FILE, len(merged), ref, content)


def is_text(content: bytes) -> bool:
    """Return whether a content is merged by lines (13-merge, rule 4.1)."""
    if len(content) > TEXT_BYTES_MAX or b"\0" in content or count_lines(content) > TEXT_LINES_MAX:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _kind_of_two(base: bytes | None, ours: EntryType, theirs: EntryType) -> str:
    if EntryType.DIRECTORY in (ours, theirs):  # not both: two such entries are equal
        return FILE_DIRECTORY
    if ours is theirs:
        return "add/add" if base is None else "edit/edit"
    return "type"


# --- A file on one side, a directory on the other -------------------------------------

Outcome = Change | MergeConflict


def find_path_conflicts(
    store: ObjectReader,
    base: ObjectId | None,
    ours: ObjectId | None,
    outcomes: Iterable[Outcome],
) -> list[Outcome]:
    """Return `outcomes`, what `merge_maps` yielded, so changed that they make a legal tree.

    A path that only theirs has, where ours has a file above it or paths below it that the
    merge does not delete, becomes a conflict, and so do those (13-merge, section 5). An
    empty directory's entry goes instead, without a conflict. Costs one or two lookups for
    each level of a path that theirs added, and holds all outcomes in memory.

    Args:
        base: Root of the base, or None.
        ours: Root of ours, or None.

    Returns:
        In key order, each key at most once; a change's `old` is the value of ours.
    """
    found = {outcome.key: outcome for outcome in outcomes}
    if ours is None:
        return list(found.values())
    mine = _Kept(store, base, ours)
    for outcome in list(found.values()):
        value = _only_theirs(outcome)
        if value is not None:
            _place(found, mine, outcome.key, value)
    return [found[key] for key in sorted(found)]


def _only_theirs(outcome: Outcome) -> bytes | None:
    """Return what theirs has at a key where ours has nothing, or None."""
    if isinstance(outcome, Change):
        return outcome.new if outcome.old is None else None
    return outcome.theirs if outcome.ours is None else None


def _place(found: dict[bytes, Outcome], mine: _Kept, key: bytes, value: bytes) -> None:
    for parent, entry in mine.above(key):
        if _is_directory(entry):
            found[parent] = Change(parent, entry, None)
        else:
            _clash(found, key, None, value)
            _clash(found, parent, entry, None)
    for path, entry in mine.below(key):
        if _is_directory(value):
            found.pop(key, None)
            return
        _clash(found, key, None, value)
        _clash(found, path, entry, None)


def _clash(
    found: dict[bytes, Outcome], key: bytes, ours: bytes | None, theirs: bytes | None
) -> None:
    # What is a conflict stays what it is. Where it was none, the base has nothing: else the
    # side that has nothing deleted the path, which made it a conflict or a plain deletion.
    if not isinstance(found.get(key), MergeConflict):
        found[key] = MergeConflict(key, FILE_DIRECTORY, None, ours, theirs)


def _is_directory(value: bytes) -> bool:
    return decode_entry_trusted(value).type is EntryType.DIRECTORY


class _Kept:
    """The entries of ours that a merge cannot delete, as ours changed them."""

    def __init__(self, store: ObjectReader, base: ObjectId | None, ours: ObjectId) -> None:
        self._store = store
        self._root = ours
        self._ours = MapReader(store, ours)
        self._base = MapReader(store, base) if base is not None else None

    def above(self, path: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entry at a directory of `path`, if there is one."""
        for parent in parents_of(path):
            value = self._ours.find(parent)
            if value is not None and self._changed(parent, value):
                yield parent, value

    def below(self, path: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries that `path` is a directory of."""
        for key, value in list_entries(self._store, self._root, prefix=path + b"/"):
            if self._changed(key, value):
                yield key, value

    def _changed(self, key: bytes, value: bytes) -> bool:
        return self._base is None or self._base.find(key) != value
