"""The messages as values, and their bytes (06-wire, section 2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gsync.errors import (
    Conflict,
    Corrupt,
    Denied,
    GsyncError,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from gsync.frozen import frozen
from gsync.objects.encoding import NotCanonical, decode, encode
from gsync.objects.oid import OID_BYTES, Kind, ObjectId
from gsync.protocol.frames import FRAME_BYTES_MAX

VERSION = 1
MESSAGE_BYTES_MAX = 1 << 20
SESSION_BYTES = 16
REFS_MAX = 10_000

RUN_HEADER = "Gsync-Run"
RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What names one run of a client in the server's log (06-wire, section 1)."""
HELD_MAX = 100_000
"""Names of frames in a fetch: some 25 GB of contents."""

FETCH_BYTES_MAX = 4 << 20

REF_NAME = re.compile(r"main|(deploy|tags)/[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

KINDS: dict[str, type[GsyncError]] = {
    error.kind: error
    for error in (Invalid, Denied, NotFound, Conflict, TooLarge, Corrupt, Unavailable)
}


@frozen
class Limits:
    """What the server accepts at most.

    Attributes:
        frame_bytes_max: A frame, in bytes.
        part_bytes: A request that carries frames, in bytes.
        want_max: Ids in one `objects` request.
        have_max: Haves in one `fetch` request.
        log_max: Log entries in one answer.
    """

    frame_bytes_max: int = FRAME_BYTES_MAX
    part_bytes: int = 32 << 20
    want_max: int = 16_384
    have_max: int = 256
    log_max: int = 1_000


@frozen
class Hello:
    """The client's first message: its version, and the last of the server's log it has seen."""

    version: int
    seen: tuple[int, bytes] | None


@frozen
class Welcome:
    """The server's answer to hello.

    Attributes:
        version: The protocol version both speak.
        limits: What the server accepts.
        refs: Where its refs point.
        head: Sequence number and hash of its last log entry, or None.
        entries: Encoded log entries after the ones the client has seen.
    """

    version: int
    limits: Limits
    refs: dict[str, ObjectId]
    head: tuple[int, bytes] | None
    entries: list[bytes]


@frozen
class Fetch:
    """Manifests wanted, manifests the client has, and names of frames that came before."""

    wants: list[ObjectId]
    haves: list[ObjectId]
    held: Sequence[bytes] = ()


@frozen
class Begin:
    """A push in several requests: its name, and the manifests it builds on."""

    session: bytes
    bases: list[ObjectId]


@frozen
class Announcement:
    """The refs to move at the end of a push: `(name, old, new)` each, and why."""

    moves: list[tuple[str, ObjectId | None, ObjectId | None]]
    why: str


@frozen
class Taken:
    """The server's answer to a stream of frames: how many it took, the log entries made."""

    frames: int
    entries: list[bytes]


def encode_hello(hello: Hello) -> bytes:
    """Return the message of `hello`."""
    return encode([1, hello.version, list(hello.seen) if hello.seen else None])


def decode_hello(body: bytes) -> Hello:
    """Return the hello that `body` encodes, or raise Invalid."""
    match _message(body):
        case [1, int(version), seen] if version >= 1:
            return Hello(version, _head(seen))
    raise _malformed("hello")


def encode_welcome(welcome: Welcome) -> bytes:
    """Return the message of `welcome`."""
    limits = welcome.limits
    return encode(
        [
            1,
            welcome.version,
            [
                limits.frame_bytes_max,
                limits.part_bytes,
                limits.want_max,
                limits.have_max,
                limits.log_max,
            ],
            [[name, oid] for name, oid in sorted(welcome.refs.items())],
            list(welcome.head) if welcome.head else None,
            welcome.entries,
        ]
    )


def decode_welcome(body: bytes) -> Welcome:
    """Return the welcome that `body` encodes, or raise Invalid."""
    match _message(body, 8 << 20):
        case [1, int(version), [*numbers], list(refs), head, list(entries)] if len(
            numbers
        ) >= 5 and all(type(n) is int and n > 0 for n in numbers):
            if version != VERSION:
                raise Invalid(
                    f"the server speaks protocol {version}, this gsync speaks {VERSION}",
                    hint="install the same version of gsync on both sides",
                )
            return Welcome(version, Limits(*numbers[:5]), _refs(refs), _head(head), _blobs(entries))
    raise _malformed("welcome")


def encode_log(after: int) -> bytes:
    """Return the message that asks for log entries with a greater seq than `after`."""
    return encode([1, after])


def decode_log(body: bytes) -> int:
    """Return the seq after which entries are wanted, or raise Invalid."""
    match _message(body):
        case [1, int(after)] if 0 <= after < 1 << 63:
            return after
    raise _malformed("log")


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """Return the message that carries encoded log entries."""
    return encode([1, list(entries)])


def decode_entries(body: bytes) -> list[bytes]:
    """Return the encoded log entries of a message, or raise Invalid."""
    match _message(body, 8 << 20):
        case [1, list(entries)]:
            return _blobs(entries)
    raise _malformed("log entries")


def encode_fetch(fetch: Fetch) -> bytes:
    """Return the message of `fetch`."""
    held = [sorted(fetch.held)] if fetch.held else []
    return encode([1, fetch.wants, fetch.haves, *held])


def decode_fetch(body: bytes) -> Fetch:
    """Return the fetch that `body` encodes, or raise Invalid."""
    match _message(body, FETCH_BYTES_MAX):
        case [1, list(wants), list(haves), *rest] if len(wants) <= REFS_MAX and len(haves) <= 256:
            match rest:
                case []:
                    held: list[bytes] = []
                case [[_, *_] as names] if len(names) <= HELD_MAX:
                    held = [_oid(name) for name in names]
                case _:
                    raise _malformed("fetch")
            return Fetch([_oid(want) for want in wants], [_oid(have) for have in haves], held)
    raise _malformed("fetch")


def encode_wants(wants: Sequence[tuple[Kind, ObjectId]]) -> bytes:
    """Return the message that asks for objects by kind and id."""
    return encode([1, [[int(kind), oid] for kind, oid in wants]])


def decode_wants(body: bytes, want_max: int) -> list[tuple[Kind, ObjectId]]:
    """Return the objects that a message asks for, or raise Invalid."""
    match _message(body):
        case [1, list(wants)] if len(wants) <= want_max:
            return [_want(want) for want in wants]
    raise _malformed("objects")


def encode_begin(begin: Begin) -> bytes:
    """Return the message of `begin`."""
    return encode([1, begin.session, begin.bases])


def decode_begin(body: bytes) -> Begin:
    """Return the begin that `body` encodes, or raise Invalid."""
    match _message(body):
        case [1, bytes(session), list(bases)] if len(session) == SESSION_BYTES:
            return Begin(session, [_oid(base) for base in bases])
    raise _malformed("begin")


def encode_held(held: Sequence[bytes]) -> bytes:
    """Return the answer to begin: the names of the frames that arrived before."""
    return encode([1, sorted(held)])


def decode_held(body: bytes) -> set[bytes]:
    """Return the names of the frames that the server holds, or raise Invalid."""
    match _message(body, 8 << 20):
        case [1, list(held)]:
            return set(_blobs(held))
    raise _malformed("held frames")


def encode_announcement(announcement: Announcement) -> bytes:
    """Return the body of an announcement frame."""
    moves = [[name, old, new] for name, old, new in announcement.moves]
    return encode([moves, announcement.why])


def decode_announcement(body: bytes) -> Announcement:
    """Return the announcement of a frame, or raise Invalid."""
    match _message(body):
        case [list(moves), str(why)] if len(moves) <= REFS_MAX and len(why) <= 255:
            return Announcement([_move(move) for move in moves], why)
    raise _malformed("announcement")


def encode_taken(taken: Taken) -> bytes:
    """Return the message of `taken`."""
    return encode([1, taken.frames, taken.entries])


def decode_taken(body: bytes) -> Taken:
    """Return the answer to a stream, or raise Invalid."""
    match _message(body, 8 << 20):
        case [1, int(frames), list(entries)]:
            return Taken(frames, _blobs(entries))
    raise _malformed("answer to a push")


def encode_error(error: GsyncError) -> bytes:
    """Return the message that carries `error` to the other side."""
    return encode([1, error.kind, error.message, error.hint])


def decode_error(body: bytes) -> GsyncError | None:
    """Return the error that a message carries, or None where there is none in it."""
    try:
        match _message(body):
            case [1, str(kind), str(text), None | str() as hint] if kind in KINDS:
                return KINDS[kind](text, hint=hint)
    except Invalid:
        pass
    return None


def check_ref_name(name: str) -> None:
    """Raise Invalid unless a push may move a ref of that name (06-wire, section 7)."""
    if not REF_NAME.fullmatch(name):
        raise Invalid(
            f"not a ref that can be pushed: {name[:80]!r}; expected main, deploy/NAME or tags/NAME"
        )


def _message(body: bytes, bytes_max: int = MESSAGE_BYTES_MAX) -> Any:
    return decode(body, bytes_max)


def _malformed(what: str) -> Invalid:
    return Invalid(
        f"malformed message: not a {what} of version 1",
        hint="is the other side a gsync server, and of a version that fits?",
    )


def _oid(value: Any) -> ObjectId:
    if type(value) is not bytes or len(value) != OID_BYTES:
        raise NotCanonical("message: an id is not 32 bytes")
    return ObjectId(value)


def _head(value: Any) -> tuple[int, bytes] | None:
    match value:
        case None:
            return None
        case [int(seq), bytes(digest)] if 1 <= seq < 1 << 63 and len(digest) == OID_BYTES:
            return seq, digest
    raise _malformed("log head")


def _refs(items: list[Any]) -> dict[str, ObjectId]:
    found: dict[str, ObjectId] = {}
    last = ""
    for item in items:
        match item:
            case [str(name), oid] if len(found) < REFS_MAX and name > last:
                check_ref_name(name)
                found[name] = _oid(oid)
                last = name
            case _:
                raise _malformed("list of refs")
    return found


def _want(item: Any) -> tuple[Kind, ObjectId]:
    match item:
        case [int(kind), oid] if kind in set(Kind):
            return Kind(kind), _oid(oid)
    raise _malformed("list of objects")


def _move(item: Any) -> tuple[str, ObjectId | None, ObjectId | None]:
    match item:
        case [str(name), old, new]:
            check_ref_name(name)
            return name, None if old is None else _oid(old), None if new is None else _oid(new)
    raise _malformed("list of moves")


def _blobs(items: list[Any]) -> list[bytes]:
    if any(type(item) is not bytes for item in items):
        raise _malformed("list of byte strings")
    return items
