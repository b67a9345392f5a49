"""Manifests from one store to another, through bytes, with peers that lie."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_collections import TABLE, put_table

from gsync.errors import Conflict, GsyncError, Invalid
from gsync.frozen import replace
from gsync.maps.check import MapBroken
from gsync.maps.diff import diff_maps
from gsync.maps.omap import build_map, count_entries, list_entries
from gsync.objects.chunk_list import ChunkListBuilder
from gsync.objects.chunking import split_buffers
from gsync.objects.encoding import Reference, decode, encode
from gsync.objects.model import (
    EMPTY_MAP_BODY,
    Collection,
    Internal,
    Manifest,
    decode_manifest,
    encode_internal,
    encode_leaf,
    encode_manifest,
)
from gsync.objects.oid import Kind, ObjectId, blob_id
from gsync.protocol.frames import (
    FRAME_BYTES_MAX,
    RECORDS_MAX,
    Frame,
    FrameType,
    Patch,
    StreamBroken,
    encode_frame,
    pack_frame,
    patch_frame,
    read_frames,
)
from gsync.protocol.messages import Announcement, Begin, Fetch, Hello, encode_announcement
from gsync.store.base import RefMove
from gsync.store.memory import MemoryStore
from gsync.store.reflog import decode_entry
from gsync.transfer.answer import Answerer
from gsync.transfer.history import forgotten_ids
from gsync.transfer.negotiate import fetch_by_level, take_stream
from gsync.transfer.receive import Incomplete, PatchMismatch, Receiver
from gsync.transfer.resume import FrameNames, Journal, left_to_send
from gsync.transfer.send import objects_in
from gsync.views.files import EntryType, FileEntry, encode_entry
from gsync.views.rows.schema import View, encode_schema, encode_view

Tree = dict[bytes, bytes]


def answerer(store: MemoryStore, actor: str = "tester") -> Answerer:
    return Answerer(store, actor, lambda: 1_000_000)


def put_file(store: MemoryStore, content: bytes) -> bytes:
    if len(content) <= 131_072:
        ref = Reference(Kind.BLOB, store.put(Kind.BLOB, content), len(content))
        return encode_entry(FileEntry(EntryType.FILE, len(content), ref))
    builder = ChunkListBuilder(store.put)
    for chunk in split_buffers([content]):
        builder.add(Reference(Kind.BLOB, store.put(Kind.BLOB, chunk), len(chunk)))
    ref = builder.finish()
    return encode_entry(FileEntry(EntryType.FILE, len(content), ref, blob_id(content)))


def commit(store: MemoryStore, tree: Tree, parents: tuple[ObjectId, ...] = ()) -> ObjectId:
    root = build_map(store, [(path, put_file(store, tree[path])) for path in sorted(tree)])
    files = Collection("files", root, len(tree))
    return store.put(
        Kind.MANIFEST, encode_manifest(Manifest(parents, (files,), "me", 1, "a message"))
    )


def over_the_wire(frames: Iterable[Frame], seed: int = 0) -> Iterator[Frame]:
    """The frames as a receiver reads them from chunks of any size."""
    r = random.Random(seed)
    data = b"".join(map(encode_frame, frames))
    cuts = sorted(r.randrange(len(data) + 1) for _ in range(20))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return read_frames(pieces)


def random_tree(r: random.Random, count: int) -> Tree:
    tree: Tree = {}
    for i in range(count):
        size = r.choice([0, 10, 3000, 3000, 50_000 if r.random() < 0.1 else 100])
        tree[b"d%d/f%d" % (i % 7, i)] = r.randbytes(size)
    if count > 20:
        tree[b"large"] = r.randbytes(400_000)
    return tree


def changed_tree(r: random.Random, tree: Tree) -> Tree:
    new = dict(tree)
    for path in list(tree):
        if r.random() < 0.1:
            content = bytearray(tree[path])
            at = r.randint(0, len(content))
            content[at:at] = r.randbytes(r.randint(1, 60))
            new[path] = bytes(content)
        elif r.random() < 0.05:
            del new[path]
    new[b"new/%d" % r.randrange(10**9)] = r.randbytes(500)
    return new


@given(seed=st.integers(0, 2**32), count=st.sampled_from([0, 1, 30, 300]))
def test_fetch_brings_a_history_whole(seed: int, count: int) -> None:
    """What one store has, another gets: all of it at first, then only what is new."""
    r = random.Random(seed)
    source, target = MemoryStore(), MemoryStore()
    tree = random_tree(r, count)
    first = commit(source, tree)
    receiver = Receiver(target)
    take_stream(receiver, over_the_wire(answerer(source).fetch(Fetch([first], [])), seed))
    newer = changed_tree(r, tree)
    second = commit(source, newer, (first,))
    third = commit(source, changed_tree(r, newer), (second,))
    frames = list(over_the_wire(answerer(source).fetch(Fetch([third], [first])), seed))
    take_stream(receiver, frames)
    assert receiver.manifests == [first, second, third]
    assert set(source._bodies) - set(target._bodies) == set()
    small = sum(len(frame.body) for frame in frames)
    assert small < 5_000 + 0.5 * sum(map(len, newer.values()))


def test_a_small_edit_of_a_large_file_sends_little() -> None:
    """An edit inside 4 MB brings the chunks around it, not the file."""
    r = random.Random(5)
    store = MemoryStore()
    content = r.randbytes(4_000_000)
    first = commit(store, {b"f": content})
    second = commit(store, {b"f": content[:2_000_000] + b"!" + content[2_000_000:]}, (first,))
    frames = list(answerer(store).fetch(Fetch([second], [first])))
    assert sum(len(frame.body) for frame in frames) < 200_000


def test_an_edited_text_goes_as_its_difference() -> None:
    """A text with one edited line costs some tens of bytes, however long it is."""
    r = random.Random(6)
    store = MemoryStore()
    text = r.randbytes(60_000).hex().encode()
    first = commit(store, {b"a/text": text})
    second = commit(store, {b"a/text": text[:500] + b"edit" + text[500:]}, (first,))
    frames = list(answerer(store).fetch(Fetch([second], [first])))
    assert sum(len(frame.body) for frame in frames) < 700


@given(seed=st.integers(0, 2**32))
def test_levels_bring_the_same_without_a_common_manifest(seed: int) -> None:
    """Asked level by level, a store that shares contents is sent only what it lacks."""
    r = random.Random(seed)
    source, target = MemoryStore(), MemoryStore()
    tree = random_tree(r, 200)
    commit(target, tree)
    wanted = commit(source, changed_tree(r, tree), (commit(source, tree),))
    receiver, trips, sent = Receiver(target, by_level=True), 0, 0
    conversation = fetch_by_level(target, receiver, [wanted], 16_384)
    try:
        wants = next(conversation)
        while True:
            trips += 1
            frames = list(over_the_wire(answerer(source).objects(wants)))
            sent += sum(map(objects_in, frames))
            wants = conversation.send(frames)
    except StopIteration:
        pass
    assert target.missing([wanted]) == set()
    assert trips <= 8
    assert sent < len(source._bodies) / 2


def push(
    server: MemoryStore, frames: Iterable[Frame], moves: list, actor: str = "tester"
) -> list[bytes]:
    body = encode_announcement(Announcement(moves, "push"))
    stream = [*frames, Frame(FrameType.ANNOUNCE, body)]
    return answerer(server, actor).frames(b"s" * 16, over_the_wire(stream)).entries


def contents(store: MemoryStore, wants: list[ObjectId], haves: list[ObjectId]) -> list[Frame]:
    return list(answerer(store).fetch(Fetch(wants, haves)))[:-1]


def test_push_moves_the_ref_by_compare_and_swap() -> None:
    """A push moves main; one that builds on what main was before is refused."""
    server, client = MemoryStore(), MemoryStore()
    first = commit(client, {b"a": b"1"})
    push(server, contents(client, [first], []), [("main", None, first)])
    assert answerer(server).hello(Hello(1, None)).refs == {"main": first}
    ours, theirs = (commit(client, {b"a": text}, (first,)) for text in (b"2", b"3"))
    push(server, contents(client, [ours], [first]), [("main", first, ours)])
    with pytest.raises(Conflict):
        push(server, contents(client, [theirs], [first]), [("main", first, theirs)])
    with pytest.raises(Conflict):
        push(server, contents(client, [theirs], [first]), [("main", ours, theirs)])
    assert server.find_ref("main") == ours


class Moving(MemoryStore):
    """A store whose refs move while somebody asks where they are."""

    def list_refs(self) -> dict[str, ObjectId]:
        refs = super().list_refs()
        move = RefMove("main", refs.get("main"), ObjectId(bytes(32)))
        self.move_refs([move], time_us=1, actor="another", why="push")
        return refs


def test_a_ref_that_moves_during_hello_makes_no_rewritten_log() -> None:
    """The entries end where `head` says, or the client would take them for another history."""
    store = Moving()
    store.list_refs()
    welcome = Answerer(store, "me", lambda: 1).hello(Hello(1, None))
    last = decode_entry(welcome.entries[-1])
    assert welcome.head == (last.seq, last.hash)


def test_a_push_moves_no_tag() -> None:
    """A tag is made once: a second push of it is refused, also to a descendant."""
    server, client = MemoryStore(), MemoryStore()
    first = commit(client, {b"a": b"1"})
    second = commit(client, {b"a": b"2"}, (first,))
    push(server, contents(client, [second], []), [("tags/v1", None, first)])
    with pytest.raises(Conflict, match="tag v1"):
        push(server, [], [("tags/v1", first, second)])
    assert server.list_refs() == {"tags/v1": first}


def test_frames_that_arrived_are_held() -> None:
    """Whoever begins again after a cut is told which contents need not come again."""
    server, client = MemoryStore(), MemoryStore()
    first = commit(client, random_tree(random.Random(7), 30))
    frames = contents(client, [first], [])
    sent = [frame for frame in frames if frame.type is FrameType.PACK]
    assert len(sent) > 1

    def cut() -> Iterator[Frame]:
        yield from frames[:-1]
        raise StreamBroken("cut")

    begin = Begin(b"s" * 16, [])
    assert answerer(server).begin(begin) == set()
    with pytest.raises(StreamBroken):
        answerer(server).frames(begin.session, cut())
    held = answerer(server).begin(begin)
    assert held > {frame.name for frame in sent}
    assert list(left_to_send(frames, held)) == frames[-1:]
    assert answerer(server).begin(Begin(b"t" * 16, [])) == set()


@pytest.mark.parametrize("cut", range(12))
def test_a_fetch_goes_on(cut: int) -> None:
    """Of a stream that was cut the frames that came do not come again, patches included."""
    server, client = MemoryStore(), MemoryStore()
    tree = {b"dir%d/file%d" % (i % 50, i): b"%d" % i for i in range(9000)}
    first = commit(server, tree)
    stream = list(answerer(server).fetch(Fetch([first], [])))
    assert len([frame for frame in stream if frame.type is FrameType.PATCH]) > 2
    journal = Journal(client, "fetch", Receiver(client), lambda: 1)
    came = stream[: cut * (len(stream) - 1) // 11]
    for frame in came:
        journal.take(frame)
    journal.save()
    rest = list(answerer(server).fetch(Fetch([first], [], sorted(client.frames_of("fetch")))))
    assert rest[:-1] == stream[len(came) : -1]
    again = Journal(client, "fetch", Receiver(client), lambda: 1)
    assert take_stream(again, rest) == len(rest) - 1
    assert set(server._bodies) - set(client._bodies) == set()
    again.end()
    assert (client.frames_of("fetch"), client._state, client._leases) == (set(), {}, {})


def test_patches_are_left_out_from_the_first_on() -> None:
    """A patch is left out only where all before it are: it means nothing by itself."""
    server = MemoryStore()
    tree = {b"dir%d/file%d" % (i % 50, i): b"%d" % i for i in range(9000)}
    stream = contents(server, [commit(server, tree)], [])
    namer = FrameNames()
    names = [namer.name(frame) for frame in stream]
    patches = [n for n, frame in enumerate(stream) if frame.type is FrameType.PATCH]
    for missing in patches:
        held = set(names) - {names[missing]}
        assert list(left_to_send(stream, held)) == [stream[n] for n in patches if n >= missing]


def test_an_old_move_does_not_answer_for_a_new_one() -> None:
    """A deploy ref went forth and back, and somebody else moved it: the push has not happened."""
    server, client = MemoryStore(), MemoryStore()
    one, two, three = (commit(client, {b"a": content}) for content in (b"1", b"2", b"3"))
    brought = contents(client, [one, two, three], [])
    ref = "deploy/x"
    push(server, brought, [(ref, None, one)])
    push(server, (), [(ref, one, two)])
    push(server, (), [(ref, two, one)])
    push(server, (), [(ref, one, three)], actor="somebody else")
    with pytest.raises(Conflict):
        push(server, (), [(ref, one, two)])
    assert server.find_ref(ref) == three


def test_a_done_announcement_is_known_after_others_moved() -> None:
    """An answer that was lost is given again, also when somebody has moved refs meanwhile."""
    server, client = MemoryStore(), MemoryStore()
    first = commit(client, {b"a": b"1"})
    second = commit(client, {b"a": b"2"}, (first,))
    mine = [("main", None, first), ("tags/v1", None, first)]
    taken = push(server, contents(client, [first], []), mine)
    push(server, contents(client, [second], [first]), [("main", first, second)])
    push(server, [], [("deploy/x", None, second)])
    assert push(server, [], mine) == taken
    assert len(server.list_log()) == 4
    with pytest.raises(Conflict):
        push(server, [], [("main", None, first)], actor="other")


def refused(frames: Iterable[Frame], kind: type[GsyncError], store: MemoryStore | None = None):
    receiver = Receiver(store or MemoryStore())
    with pytest.raises(kind):
        for frame in frames:
            receiver.take(frame)
    assert receiver.manifests == []


def test_patch_that_does_not_lead_to_its_root_is_refused() -> None:
    """A receiver arrives at another root than announced, and keeps no manifest."""
    store = MemoryStore()
    entry = put_file(store, b"x")
    root = build_map(store, [(b"a", entry)])
    refused([patch_frame(Patch(None, [(b"b", entry)], root))], PatchMismatch)


@pytest.mark.parametrize(
    "path", [b"../x", b"/etc/passwd", b".gsync/config.toml", b"a\0b", b"a//b", b"..\\x"]
)
def test_escaping_paths_are_refused(path: bytes) -> None:
    """A manifest whose tree holds an illegal path is not stored."""
    evil = MemoryStore()
    root = build_map(evil, [(path, put_file(evil, b"x"))])
    manifest = Manifest((), (Collection("files", root, 1),), "e", 0, "m")
    oid = evil.put(Kind.MANIFEST, encode_manifest(manifest))
    refused(contents(evil, [oid], []), Invalid)


def test_an_escaping_path_that_is_added_is_refused() -> None:
    """A later manifest, of which only the difference is looked at, brings none either."""
    for path in (b"../x", b".gsync/config.toml", b"/etc/passwd"):
        store, target = MemoryStore(), MemoryStore()
        first = commit(store, {b"zz": b"1"})
        second = commit(store, {path: b"2", b"zz": b"1"}, (first,))
        take_stream(Receiver(target), answerer(store).fetch(Fetch([first], [])))
        refused(contents(store, [second], [first]), Invalid, target)


def test_file_that_becomes_its_own_directory_is_refused() -> None:
    """An added path below, or above, one that stays is refused although it is legal alone."""
    for old, new in ((b"a", b"a/b"), (b"a/b", b"a")):
        store = MemoryStore()
        first = commit(store, {old: b"1", b"zz": b"2"})
        second = commit(store, {old: b"1", new: b"1", b"zz": b"2"}, (first,))
        target = MemoryStore()
        receiver = Receiver(target)
        for frame in contents(store, [first], []):
            receiver.take(frame)
        with pytest.raises(Invalid, match="at once"):
            for frame in contents(store, [second], [first]):
                receiver.take(frame)
        assert receiver.manifests == [first]


def test_left_out_contents_are_noticed() -> None:
    """Each frame of a transfer left out in turn: no manifest is stored without it."""
    store = MemoryStore()
    tree = random_tree(random.Random(3), 60)
    first = commit(store, tree)
    second = commit(store, changed_tree(random.Random(4), tree), (first,))
    frames = contents(store, [second], [])
    assert len(frames) > 5
    for index in range(len(frames) - 1):
        target = MemoryStore()
        receiver = Receiver(target)
        with pytest.raises(GsyncError):
            for frame in frames[:index] + frames[index + 1 :]:
                receiver.take(frame)
        assert second not in receiver.manifests


def test_wrong_counts_lengths_and_kinds_are_refused() -> None:
    """A manifest that miscounts, a reference of a wrong length, a manifest in a pack."""
    store = MemoryStore()
    oid = store.put(Kind.BLOB, b"four")
    entry = encode_entry(FileEntry(EntryType.FILE, 5, Reference(Kind.BLOB, oid, 5)))
    root = build_map(store, [(b"a", entry)])
    for count in (1, 2):
        body = encode_manifest(Manifest((), (Collection("files", root, count),), "", 0, ""))
        manifest = store.put(Kind.MANIFEST, body)
        refused(contents(store, [manifest], []), Invalid)
    absent = ObjectId(bytes(32))
    body = encode_manifest(Manifest((absent,), (), "", 0, ""))
    refused([Frame(FrameType.MANIFESTS, encode([[body], []]))], Incomplete)


@given(data=st.binary(max_size=200))
def test_any_stream_is_read_or_refused(data: bytes) -> None:
    """Any bytes are frames or raise one of our errors, and so does taking them."""
    store = MemoryStore()
    receiver = Receiver(store)
    try:
        for frame in read_frames([data]):
            receiver.take(frame)
    except GsyncError:
        pass
    for kind in FrameType:
        try:
            receiver.take(Frame(kind, data))
        except GsyncError:
            pass


def test_both_of_two_references_are_checked() -> None:
    """A reference that lies about a length is not hidden by a right one to the same content."""
    for lengths in ((5, 4), (4, 5)):
        store = MemoryStore()
        oid = store.put(Kind.BLOB, b"four")
        refs = [Reference(Kind.BLOB, oid, length) for length in lengths]
        values = [encode_entry(FileEntry(EntryType.FILE, ref.length, ref)) for ref in refs]
        root = build_map(store, zip([b"a", b"b"], values, strict=True))
        body = encode_manifest(Manifest((), (Collection("files", root, 2),), "", 0, ""))
        refused(contents(store, [store.put(Kind.MANIFEST, body)], []), Invalid)


def test_what_is_named_is_of_the_kind_it_is_named_as() -> None:
    """A manifest is no content, and a content no parent, base or target."""
    server = MemoryStore()
    first = commit(server, {b"a": b"1"})
    size = len(server.get(Kind.MANIFEST, first))
    entry = FileEntry(EntryType.FILE, size, Reference(Kind.BLOB, first, size))
    root = build_map(server, [(b"a", encode_entry(entry))])
    blob = blob_id(b"1")
    for parents, tree in (((first,), root), ((first, blob), None), ((blob,), None)):
        files = () if tree is None else (Collection("files", tree, 1),)
        frame = encode([[encode_manifest(Manifest(parents, files, "", 0, ""))], []])
        refused([Frame(FrameType.MANIFESTS, frame)], Incomplete, server)
    with pytest.raises(Conflict):
        answerer(server).begin(Begin(b"s" * 16, [blob]))
    assert server.leased(0) == set()


def test_cut_streams_and_long_frames_are_refused() -> None:
    """A stream cut at any byte, or with a frame beyond the limit, is not taken for whole."""
    store = MemoryStore()
    first = commit(store, {b"a": b"1"})
    data = b"".join(map(encode_frame, answerer(store).fetch(Fetch([first], []))))
    for cut in range(len(data)):
        with pytest.raises(StreamBroken):
            take_stream(Receiver(MemoryStore()), read_frames([data[:cut]]))
    with pytest.raises(GsyncError):
        list(read_frames([(FRAME_BYTES_MAX + 1).to_bytes(4, "big") + b"\1"]))


def test_a_patched_map_is_the_map() -> None:
    """Thousands of entries cross in several patches and arrive as the same map."""
    store, target = MemoryStore(), MemoryStore()
    tree = {b"dir%d/file%d" % (i % 50, i): b"%d" % i for i in range(9000)}
    first = commit(store, tree)
    frames = contents(store, [first], [])
    assert sum(frame.type is FrameType.PATCH for frame in frames) > 2
    receiver = Receiver(target)
    for frame in frames:
        receiver.take(frame)
    root = build_map(store, [(path, put_file(store, tree[path])) for path in sorted(tree)])
    assert count_entries(target, root) == 9000
    assert len(list(list_entries(target, root))) == 9000
    assert list(diff_maps(target, root, root)) == []


def test_many_short_records_fit_their_patches() -> None:
    """Deleting more entries than a patch may have, with short keys, takes several patches."""
    store, target = MemoryStore(), MemoryStore()
    one = encode(1)
    entries = [(n.to_bytes(3, "big"), one) for n in range(RECORDS_MAX + 10_000)]
    parents: tuple[ObjectId, ...] = ()
    for table in (entries, entries[:1]):
        collection = put_table(store, build_map(store, table), len(table))
        body = encode_manifest(Manifest(parents, (collection,), "me", 1, "m"))
        oid = store.put(Kind.MANIFEST, body)
        take_stream(Receiver(target), answerer(store).fetch(Fetch([oid], list(parents))))
        parents = (oid,)
    assert target.missing(parents) == set()


@pytest.mark.parametrize("lost", [False, True])
def test_a_push_in_parts_arrives_whole(lost: bool) -> None:
    """A patch that goes on in the next request goes on there, also when an answer was lost."""
    server, client = MemoryStore(), MemoryStore()
    tree = {b"dir%d/file%d" % (i % 50, i): b"%d" % i for i in range(9000)}
    first = commit(client, tree)
    frames = contents(client, [first], [])
    announce = encode_announcement(Announcement([("main", None, first)], "push"))
    session, last = b"s" * 16, [Frame(FrameType.ANNOUNCE, announce)]
    rest = frames
    while rest:
        answerer(server).frames(session, over_the_wire(rest[:2]))
        rest = rest[2:]
        if lost:
            rest = list(left_to_send(frames, answerer(server).begin(Begin(session, []))))
    for _ in range(2 if lost else 1):
        assert len(answerer(server).frames(session, over_the_wire(last)).entries) == 1
    assert server.find_ref("main") == first
    assert server.list_log()[-1].seq == 1
    assert set(client._bodies) - set(server._bodies) == set()


def test_a_peer_marks_nothing_as_forgotten_that_is_here() -> None:
    """Only absent parents of what it sends are believed; gc would drop what is marked."""
    server, client = MemoryStore(), MemoryStore()
    first = commit(client, {b"a": b"1"})
    push(server, contents(client, [first], []), [("main", None, first)])
    lie = Frame(FrameType.MANIFESTS, encode([[], [first]]))
    answerer(server).frames(b"e" * 16, over_the_wire([lie]))
    second = commit(client, {b"a": b"2"}, (first,))
    body = client.get(Kind.MANIFEST, second)
    frames = contents(client, [second], [first])[:-1]
    lie = Frame(FrameType.MANIFESTS, encode([[body], [first, bytes(32)]]))
    answerer(server).frames(b"f" * 16, over_the_wire([*frames, lie]))
    assert forgotten_ids(server) == set()


def test_nodes_in_a_stream_are_refused() -> None:
    """Maps come as patches, which make them right; nodes as they please do not come in."""
    store = MemoryStore()
    root = build_map(store, [(b"a", put_file(store, b"x"))])
    frames = [pack_frame(pack) for pack in store.export_packs([(Kind.NODE, root)])]
    refused(frames, Invalid)


def test_values_refer_to_contents_only() -> None:
    """A value that refers to a node, which nothing would walk, is refused."""
    store = MemoryStore()
    node = store.put(Kind.NODE, EMPTY_MAP_BODY)
    root = build_map(store, [(b"k", encode([Reference(Kind.NODE, node, 0)]))])
    collections = (Collection("notes", root, 1),)
    body = encode_manifest(Manifest((), collections, "", 0, ""))
    oid = store.put(Kind.MANIFEST, body)
    target = MemoryStore()
    target.put(Kind.NODE, EMPTY_MAP_BODY)
    frames = [f for f in contents(store, [oid], []) if f.type is not FrameType.PACK]
    refused(frames, Invalid, target)


SCHEMA, VIEW = encode_schema(TABLE), encode_view(View())
LOST = Reference(Kind.BLOB, blob_id(b"lost"), 4)
TABLES_NOBODY_READS = {
    "a schema of another version": (encode([2, *decode(SCHEMA, 1000)[1:]]), VIEW),
    "a schema of an unknown type": (SCHEMA.replace(b"\xa4text", b"\xa4beer"), VIEW),
    "a schema of another table": (encode_schema(replace(TABLE, table="u")), VIEW),
    "a view with a filter": (SCHEMA, encode([1, [], "a > 1", []])),
    "no schema": (None, VIEW),
    "no view": (SCHEMA, None),
    "an extra of a schema is absent": (encode_schema(replace(TABLE, extras=(("x", LOST),))), VIEW),
    "an extra of a view is absent": (SCHEMA, encode_view(View((), (("x", [LOST]),)))),
}


def commit_table(
    store: MemoryStore, schema: bytes | None, view: bytes | None, parents: tuple[ObjectId, ...] = ()
) -> ObjectId:
    table = Collection(
        "db/main/t",
        store.put(Kind.NODE, EMPTY_MAP_BODY),
        0,
        None if schema is None else store.put(Kind.SCHEMA, schema),
        None if view is None else store.put(Kind.VIEW, view),
    )
    return store.put(Kind.MANIFEST, encode_manifest(Manifest(parents, (table,), "me", 1, "m")))


@pytest.mark.parametrize("case", TABLES_NOBODY_READS)
@pytest.mark.parametrize("known", [False, True])
def test_tables_that_nobody_could_read_are_refused(case: str, known: bool) -> None:
    """A table comes in with a schema and a view of its own that decode, or not at all."""
    store, target = MemoryStore(), MemoryStore()
    parents = (commit_table(store, SCHEMA, VIEW),) if known else ()
    take_stream(Receiver(target), answerer(store).fetch(Fetch(list(parents), [])))
    schema, view = TABLES_NOBODY_READS[case]
    oid = commit_table(store, schema, view, parents)
    for kind, body in ((Kind.SCHEMA, schema), (Kind.VIEW, view), (Kind.NODE, EMPTY_MAP_BODY)):
        if body is not None:
            target.put(kind, body)
    frame = Frame(FrameType.MANIFESTS, encode([[store.get(Kind.MANIFEST, oid)], []]))
    refused([frame], Incomplete if "absent" in case else Invalid, target)


def test_fetch_by_level_goes_on_where_it_was_cut() -> None:
    """Nodes that an interrupted attempt left without their children do not count as complete."""
    source, target = MemoryStore(), MemoryStore()
    tree = {b"dir%d/file%d" % (i % 50, i): b"%d" % i for i in range(3000)}
    wanted = commit(source, tree)
    manifest = decode_manifest(source.get(Kind.MANIFEST, wanted))
    root = manifest.collections[0].root
    target.put(Kind.NODE, source.get(Kind.NODE, root))
    conversation = fetch_by_level(target, Receiver(target, by_level=True), [wanted], 16_384)
    try:
        wants = next(conversation)
        while True:
            wants = conversation.send(list(answerer(source).objects(wants)))
    except StopIteration:
        pass
    assert target.missing([wanted]) == set()
    assert set(source._bodies) - set(target._bodies) == set()


def levels(source: MemoryStore, target: MemoryStore, wanted: ObjectId, spoil=lambda wants: wants):
    """Fetch by level; `spoil` makes of what is asked for what comes."""
    conversation = fetch_by_level(target, Receiver(target, by_level=True), [wanted], 16_384)
    try:
        wants = next(conversation)
        while True:
            wants = conversation.send(list(answerer(source).objects(spoil(wants))))
    except StopIteration:
        pass


def test_nodes_by_id_make_a_map_as_building_would() -> None:
    """A leaf that was split by hand has an id, and is refused all the same."""
    source, target = MemoryStore(), MemoryStore()
    entries = [(b"f%d" % i, put_file(source, b"%d" % i)) for i in range(4)]
    parent = Internal(1, [], [], [], [])
    for half in (entries[:2], entries[2:]):
        keys, values = [key for key, _ in half], [value for _, value in half]
        parent.keys.append(keys[-1])
        parent.children.append(source.put(Kind.NODE, encode_leaf(keys, values)))
        parent.rows.append(len(half))
        parent.sizes.append(sum(map(len, keys + values)))
    root = source.put(Kind.NODE, encode_internal(parent))
    manifest = Manifest((), (Collection("files", root, 4),), "", 0, "")
    wanted = source.put(Kind.MANIFEST, encode_manifest(manifest))
    with pytest.raises(MapBroken):
        levels(source, target, wanted)
    assert target.missing([wanted]) == {wanted}


def test_another_body_than_the_one_asked_for_is_refused() -> None:
    """Ids are computed from what comes, so a server cannot pass one content off as another."""
    source, target = MemoryStore(), MemoryStore()
    wanted = commit(source, {b"a": b"asked for"})
    other = source.put(Kind.BLOB, b"other")
    asked = blob_id(b"asked for")
    with pytest.raises(StreamBroken, match="unasked"):
        levels(
            source,
            target,
            wanted,
            lambda wants: [(k, other if oid == asked else oid) for k, oid in wants],
        )
    assert target.missing([wanted]) == {wanted}
