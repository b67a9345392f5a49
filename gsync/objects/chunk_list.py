"""The chunks of a large content, as a tree of small objects (02-chunking, section 3).

Where a node ends depends on the ids of its entries alone, as where a chunk ends depends
on its bytes alone. So an edit rewrites the nodes over the chunks that it changed and no
others, and equal content has an equal root however it came about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gsync.frozen import frozen
from gsync.objects.chunking import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNKED_ABOVE_BYTES
from gsync.objects.encoding import NotCanonical, Reference, decode, encode
from gsync.objects.oid import Kind, ObjectId

ENTRIES_MIN = 32
ENTRIES_MAX = 512
END_BITS = 0x7F  # of the last byte of an entry's id: one in 128 ends a node

LEVEL_MAX = 8
# So much fits below level 8 even if all nodes and chunks are as small as they can be.
CONTENT_BYTES_MAX: int = CHUNK_BYTES_MIN * ENTRIES_MIN ** (LEVEL_MAX + 1)

_VERSION = 1
_HEADER_BYTES = 6  # array of 3, version, level, array of up to 65,535
_REFERENCE_BYTES = 44
NODE_BYTES_MAX = _HEADER_BYTES + ENTRIES_MAX * _REFERENCE_BYTES


Seen = set[tuple[int, Reference, bool]]
"""Nodes that were walked: below which level, what was said of each, and whether it was last."""


@frozen
class ChunkList:
    """One node of a chunk list.

    Attributes:
        level: 0 if the entries are chunks; else they are nodes one level below this one.
        entries: What the node stands for, in the order of the content.
    """

    level: int
    entries: tuple[Reference, ...]

    @property
    def length(self) -> int:
        """The number of content bytes below this node."""
        return sum(entry.length for entry in self.entries)


def encode_chunk_list(node: ChunkList) -> bytes:
    """Return the body of `node`, or raise NotCanonical if no chunk list can hold it."""
    _check_node(node)
    return encode([_VERSION, node.level, list(node.entries)])


def decode_chunk_list(body: bytes) -> ChunkList:
    """Return the node that `body` encodes.

    What only its place in the tree can tell (is it a root, is it the last of its level,
    is it as long as its parent says) is checked by `list_chunks`.

    Raises:
        NotCanonical: `body` is not what a builder writes.
    """
    value = decode(body, NODE_BYTES_MAX)
    if type(value) is not list or len(value) != 3:
        raise NotCanonical("a chunk list node is an array of three")
    version, level, entries = value
    if type(version) is not int or version != _VERSION:
        raise NotCanonical(f"chunk list version {version!r}, where {_VERSION} is known")
    if type(level) is not int or type(entries) is not list:
        raise NotCanonical("a chunk list node is a version, a level and an array of references")
    node = ChunkList(level, tuple(entries))
    _check_node(node)
    return node


def ends_node(entry_count: int, oid: ObjectId) -> bool:
    """Return whether a node ends after its entry number `entry_count`, with the id `oid`."""
    if entry_count < ENTRIES_MIN:
        return False
    return entry_count == ENTRIES_MAX or oid[-1] & END_BITS == 0


class ChunkListBuilder:
    """Builds the chunk list of one content from its chunks, in order, as they are found.

    A node is put as soon as it is complete, children before parents. At most one open
    node per level is held: 512 references each.
    """

    def __init__(self, put: Callable[[Kind, bytes], ObjectId]) -> None:
        """Begin an empty list.

        Args:
            put: Keeps the body of an object of that kind and returns its id. The chunks
                themselves are the caller's to put, before they are added.
        """
        self._put = put
        self._open: list[list[Reference]] = [[]]  # by level; the top one is never empty
        self._length_bytes = 0
        self._is_complete = False

    def add(self, chunk: Reference) -> None:
        """Append the next chunk. Only the last one may be shorter than CHUNK_BYTES_MIN."""
        assert chunk.kind is Kind.BLOB and 0 < chunk.length <= CHUNK_BYTES_MAX, chunk
        assert not self._is_complete, "a chunk after the last one"
        self._length_bytes += chunk.length
        self._is_complete = chunk.length < CHUNK_BYTES_MIN
        self._add(0, chunk)

    def finish(self) -> Reference:
        """Put what is still open and return the reference to the root; the builder is spent.

        Raises:
            NotCanonical: the content is so short that it is a blob, or longer than
                CONTENT_BYTES_MAX. Nodes may have been put; nothing refers to them.
        """
        if not CHUNKED_ABOVE_BYTES < self._length_bytes <= CONTENT_BYTES_MAX:
            raise NotCanonical(f"content of {self._length_bytes} bytes has no chunk list")
        self._is_complete = True
        level = 0
        while level < len(self._open) - 1:
            if self._open[level]:
                self._add(level + 1, self._close(level))
            level += 1
        top = self._open[level]
        return top[0] if level > 0 and len(top) == 1 else self._close(level)

    def _add(self, level: int, entry: Reference) -> None:
        if level == len(self._open):
            self._open.append([])
        entries = self._open[level]
        entries.append(entry)
        if ends_node(len(entries), entry.oid):
            self._add(level + 1, self._close(level))

    def _close(self, level: int) -> Reference:
        node = ChunkList(level, tuple(self._open[level]))
        self._open[level] = []
        oid = self._put(Kind.CHUNK_LIST, encode_chunk_list(node))
        return Reference(Kind.CHUNK_LIST, oid, node.length)


def list_chunks(
    get: Callable[[ObjectId], bytes],
    root: Reference,
    seen: Seen | None = None,
) -> Iterator[Reference]:
    """Yield the references to the chunks below `root`, in the order of the content.

    Each node is read when its first chunk is due, and one node per level is held. The
    lengths add up to `root.length` and all chunks but the last have at least
    CHUNK_BYTES_MIN, so whoever bounds `root.length` has bounded the walk, whatever tree
    `get` serves.

    Args:
        get: Returns the body of an object, checked against its id; raises if it has none.
        root: A reference to a chunk list, as a file entry holds it.
        seen: Where given, nodes that were walked before, whose chunks are left out: some
            kilobytes of nodes that name one another over and over stand for petabytes, and
            to check them takes no more than to look at each once.

    Raises:
        NotCanonical: the tree is not what a builder writes. What was yielded before it
            is in its place, but the content is not to be used.
    """
    if root.kind is not Kind.CHUNK_LIST:
        raise NotCanonical(f"a chunk list is expected, a {root.kind.name} found")
    node = decode_chunk_list(get(root.oid))
    _check_length(root, node)
    if len(node.entries) < 2 or node.length <= CHUNKED_ABOVE_BYTES:
        raise NotCanonical("the root of a chunk list has two entries and more than one chunk")
    yield from _walk(get, node, seen, is_last=True)


def _walk(
    get: Callable[[ObjectId], bytes],
    node: ChunkList,
    seen: Seen | None,
    *,
    is_last: bool,
) -> Iterator[Reference]:
    if node.level == 0:
        yield from node.entries
        return
    last = len(node.entries) - 1
    for index, entry in enumerate(node.entries):
        child_is_last = is_last and index == last
        if seen is not None:
            if (node.level, entry, child_is_last) in seen:
                continue
            seen.add((node.level, entry, child_is_last))
        child = decode_chunk_list(get(entry.oid))
        if child.level != node.level - 1:
            raise NotCanonical(f"a node of level {child.level} below one of {node.level}")
        _check_length(entry, child)
        if not child_is_last:
            _check_end(child)
        yield from _walk(get, child, seen, is_last=child_is_last)


def _check_length(reference: Reference, node: ChunkList) -> None:
    if node.length != reference.length:
        raise NotCanonical(
            f"a chunk list of {node.length} bytes, referred to as {reference.length}"
        )


def _check_end(node: ChunkList) -> None:
    """Refuse a node that is not the last of its level and could only be that."""
    final = node.entries[-1]
    if not ends_node(len(node.entries), final.oid):
        raise NotCanonical("a node ends before its end, and is not the last of its level")
    if final.length < _least_bytes(node.level):
        raise NotCanonical(f"a piece of {final.length} bytes inside the content")


def _check_node(node: ChunkList) -> None:
    """Refuse what no builder would write, as far as the node alone can tell."""
    if not 0 <= node.level <= LEVEL_MAX:
        raise NotCanonical(f"a chunk list of level {node.level}, where {LEVEL_MAX} is the most")
    if not 1 <= len(node.entries) <= ENTRIES_MAX:
        raise NotCanonical(f"{len(node.entries)} entries, where 1 to {ENTRIES_MAX} are allowed")
    kind = Kind.BLOB if node.level == 0 else Kind.CHUNK_LIST
    least, most = _least_bytes(node.level), CHUNK_BYTES_MAX * ENTRIES_MAX**node.level
    final = len(node.entries)
    for count, entry in enumerate(node.entries, start=1):
        if type(entry) is not Reference or entry.kind is not kind:
            raise NotCanonical(f"entry {count} at level {node.level} is not a {kind.name}")
        if not (1 if count == final else least) <= entry.length <= most:
            raise NotCanonical(f"entry {count} at level {node.level} has {entry.length} bytes")
        if count < final and ends_node(count, entry.oid):
            raise NotCanonical(f"the node should have ended after entry {count}")
    if node.length > CONTENT_BYTES_MAX:
        raise NotCanonical(f"content of {node.length} bytes, of {CONTENT_BYTES_MAX} at most")


def _least_bytes(level: int) -> int:
    """Return the least that an entry at `level` stands for, unless it ends the content."""
    least: int = CHUNK_BYTES_MIN * ENTRIES_MIN**level
    return least
