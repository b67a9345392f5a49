"""The checks of 02, section 4: received nodes of a chunk list."""
from oracle import BLOB, CHUNKS, Ref, ends_list, is_int, need, object_id, record


def check_list_node(body):
    _, level, row = record(body, 3, 22534)
    need(is_int(level) and 0 <= level <= 8 and isinstance(row, list) and 1 <= len(row) <= 512, "layout")
    for i, r in enumerate(row):
        need(isinstance(r, Ref) and r.kind == (BLOB if level == 0 else CHUNKS), "kind of an entry")
        low = 1 if i == len(row) - 1 else 8192 * 32**level
        need(low <= r.length <= 131072 * 512**level, "length of an entry")
        need(i == len(row) - 1 or not ends_list(i + 1, r.id), "an entry before the last ends the node")
    need(sum(r.length for r in row) <= 2**58, "content too long")
    return level, row


def check_list_tree(store, root):
    def walk(ref, level, last):
        need(ref.id in store and object_id(CHUNKS, store[ref.id]) == ref.id, "body of another id")
        n, row = check_list_node(store[ref.id])
        need(level in (None, n) and sum(r.length for r in row) == ref.length, "level or length")
        need(level is not None or (len(row) > 1 and ref.length > 131072), "root")
        need(last or (ends_list(len(row), row[-1].id) and row[-1].length >= 8192 * 32**n), "end of a node")
        for i, r in enumerate(row if n else []):
            walk(r, n - 1, last and i == len(row) - 1)

    walk(root, None, True)
