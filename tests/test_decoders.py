"""Whatever bytes come, a decoder returns a value or says that they are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.config import parse_local, parse_shared
from gsync.errors import Corrupt, GsyncError, Invalid, TooLarge
from gsync.objects.chunk_list import decode_chunk_list
from gsync.objects.encoding import decode, encode
from gsync.objects.model import decode_manifest, decode_node, encode_manifest
from gsync.objects.oid import blob_id
from gsync.protocol import frames, messages
from gsync.replicas.files.checkout import recover
from gsync.store import reflog
from gsync.transfer.receive import decode_manifests
from gsync.urls import parse_database_url, parse_url
from gsync.views.files import decode_entry, encode_entry
from gsync.views.rows.keys import decode_key
from gsync.views.rows.schema import decode_schema, decode_view, encode_schema, encode_view
from gsync.views.rows.values import decode_row

Decoder = Callable[[bytes], Any]

DECODERS: dict[str, Decoder] = {
    "value": lambda body: decode(body, 1 << 20),
    "manifest": decode_manifest,
    "node": decode_node,
    "chunk list": decode_chunk_list,
    "file entry": decode_entry,
    "schema": decode_schema,
    "view": decode_view,
    "key": decode_key,
    "row": lambda body: decode_row(body, 2),
    "frames": lambda body: list(frames.read_frames([body[:3], body[3:]])),
    "pack": frames.decode_pack,
    "delta": frames.decode_delta,
    "patch": frames.decode_patch,
    "manifests": decode_manifests,
    "log entry": reflog.decode_entry,
    "hello": messages.decode_hello,
    "welcome": messages.decode_welcome,
    "log": messages.decode_log,
    "entries": messages.decode_entries,
    "fetch": messages.decode_fetch,
    "wants": lambda body: messages.decode_wants(body, 100),
    "begin": messages.decode_begin,
    "held": messages.decode_held,
    "announcement": messages.decode_announcement,
    "taken": messages.decode_taken,
    "error": messages.decode_error,
    "gsync.toml": parse_shared,
    "config.toml": parse_local,
}
AGAIN: dict[str, tuple[Decoder, Callable[[Any], bytes]]] = {
    "manifest": (decode_manifest, encode_manifest),
    "file entry": (decode_entry, encode_entry),
    "schema": (decode_schema, encode_schema),
    "view": (decode_view, encode_view),
}

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300) | st.integers(-(2**63), 2**64 - 1),
    st.binary(max_size=4) | st.binary(min_size=32, max_size=32),
    st.sampled_from(["files", "main", "text", "id", "", "db/x/y", "\0"]),
)
# What gets past the first check of each decoder: well-formed values of any shape.
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=6), max_leaves=30)
BODIES = st.binary(max_size=200) | VALUES.map(encode)
WORDS = st.sampled_from(
    [
        *("[files]", "[limits]", "[remotes.x]", "[databases.main]", "[[x]]", "url = 'x'", "="),
        *("tables = ['a']", "url = 1", "ignore = [1, 'x']", "format = 1", "\0", "\ufeff", "["),
    ]
)
TEXTS = st.lists(WORDS, max_size=6).map(lambda lines: "\n".join(lines).encode())


@pytest.mark.parametrize("name", DECODERS)
@given(body=BODIES | TEXTS)
def test_any_bytes_decode_or_are_refused(name: str, body: bytes) -> None:
    """Nothing but our own errors comes out, of the kinds that blame the bytes."""
    try:
        DECODERS[name](body)
    except (Invalid, Corrupt, TooLarge):
        pass


@pytest.mark.parametrize("name", AGAIN)
@given(body=BODIES)
def test_what_decodes_is_the_one_encoding(name: str, body: bytes) -> None:
    """Bytes that an object is read from are those that it is written as."""
    read, write = AGAIN[name]
    try:
        value = read(body)
    except GsyncError:
        return
    assert write(value) == body


@given(text=st.text(max_size=60) | st.from_regex(r"(https?|postgresql|sqlite)://.{0,30}"))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """Addresses too: what is none is Invalid."""
    for parse in (parse_url, parse_database_url):
        try:
            parse(text)
        except Invalid:
            pass


@given(data=BODIES)
def test_any_journal_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Neither damaged bytes nor a later version's journal are carried out, and it stays there."""
    workdir = tmp_path_factory.mktemp("work")
    for content in (data, blob_id(encode([2, data])) + encode([2, data])):
        (workdir / "journal").write_bytes(content)
        with pytest.raises(Corrupt):
            recover(Path(workdir), workdir)
        assert (workdir / "journal").read_bytes() == content
