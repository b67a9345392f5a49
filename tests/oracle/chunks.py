"""Page 02: where a large content is cut, and the tree that lists its chunks."""

from oracle.oracle import BLOB, CHUNKS, VECTORS, Ref, encode, is_int, need, object_id, record

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
    """Return (root reference, its level, [number of nodes of each level]) for a row of chunks."""
    level, counts = 0, []
    while True:
        groups: list[list] = [[]]
        for r in row:
            if groups[-1] and ends_list(len(groups[-1]), groups[-1][-1].id):
                groups.append([])
            groups[-1].append(r)
        row = [
            Ref(CHUNKS, object_id(CHUNKS, encode([1, level, g])), sum(r.length for r in g))
            for g in groups
        ]
        counts.append(len(row))
        if len(row) == 1:
            return row[0], level, counts
        level += 1


# --- section 4: received nodes


def check_list_node(body):
    _, level, row = record(body, 3, 22534)
    need(
        is_int(level) and 0 <= level <= 8 and isinstance(row, list) and 1 <= len(row) <= 512,
        "layout",
    )
    for i, r in enumerate(row):
        need(isinstance(r, Ref) and r.kind == (BLOB if level == 0 else CHUNKS), "kind of an entry")
        low = 1 if i == len(row) - 1 else 8192 * 32**level
        need(low <= r.length <= 131072 * 512**level, "length of an entry")
        need(
            i == len(row) - 1 or not ends_list(i + 1, r.id),
            "an entry before the last ends the node",
        )
    need(sum(r.length for r in row) <= 2**58, "content too long")
    return level, row


def check_list_tree(store, root):
    def walk(ref, level, last):
        need(ref.id in store and object_id(CHUNKS, store[ref.id]) == ref.id, "body of another id")
        n, row = check_list_node(store[ref.id])
        need(level in (None, n) and sum(r.length for r in row) == ref.length, "level or length")
        need(level is not None or (len(row) > 1 and ref.length > 131072), "root")
        need(
            last or (ends_list(len(row), row[-1].id) and row[-1].length >= 8192 * 32**n),
            "end of a node",
        )
        for i, r in enumerate(row if n else []):
            walk(r, n - 1, last and i == len(row) - 1)

    walk(root, None, True)
