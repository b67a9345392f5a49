"""The vectors of 06-wire: what is accepted means what it says, what is not is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gsync.errors import GsyncError, Invalid
from gsync.objects.encoding import decode, encode
from gsync.protocol import messages
from gsync.protocol.frames import (
    PATCH_BYTES_MAX,
    Cells,
    Patch,
    decode_patch,
    encode_frame,
    patch_frame,
    read_frames,
)
from gsync.transfer.patch import put_cells
from gsync.transfer.resume import FrameNames

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "spec/vectors/wire.json").read_text()
)
WANT_MAX = 16_384

DECODE = {
    "hello": messages.decode_hello,
    "welcome": messages.decode_welcome,
    "log": messages.decode_log,
    "fetch": messages.decode_fetch,
    "objects": lambda body: messages.decode_wants(body, WANT_MAX),
    "begin": messages.decode_begin,
    "held": messages.decode_held,
    "taken": messages.decode_taken,
    "announcement": messages.decode_announcement,
    "stream": lambda body: list(read_frames([body])),
    "names": lambda body: list(read_frames([body])),
    "patch": decode_patch,
    "cells": lambda body: decode(body, PATCH_BYTES_MAX),
}
ENCODE = {
    "hello": messages.encode_hello,
    "welcome": messages.encode_welcome,
    "log": messages.encode_log,
    "fetch": messages.encode_fetch,
    "objects": messages.encode_wants,
    "begin": messages.encode_begin,
    "held": messages.encode_held,
    "taken": messages.encode_taken,
    "announcement": messages.encode_announcement,
    "stream": lambda frames: b"".join(map(encode_frame, frames)),
}


def in_hex(record: bytes | Cells | None) -> Any:
    """A record as the vectors have it: hex of a value, pairs of slot and encoded cell, or null."""
    if isinstance(record, tuple):
        return [[slot, encode(cell).hex()] for slot, cell in record]
    return None if record is None else record.hex()


@pytest.mark.parametrize("case", VECTORS["accept"], ids=lambda case: case["description"])
def test_accepted(case: dict[str, Any]) -> None:
    """A message decodes, and encodes to the same bytes again; a frame has its name."""
    body = bytes.fromhex(case["hex"])
    value: Any = DECODE[case["kind"]](body)
    if case["kind"] in ENCODE:
        assert ENCODE[case["kind"]](value) == body  # type: ignore[operator]
    if "name" in case:
        assert [frame.name.hex() for frame in value] == [case["name"]]
    if "names" in case:
        names = FrameNames()
        assert [names.name(frame).hex() for frame in value] == case["names"]
    if case["kind"] == "patch":
        assert isinstance(value, Patch)
        assert value.base is None
        assert value.target is not None and value.target.hex() == case["target"]
        assert [[key.hex(), in_hex(record)] for key, record in value.records] == case["records"]
        assert decode_patch(patch_frame(value).body) == value
    if case["kind"] == "cells":
        cells = tuple(zip(value[::2], value[1::2], strict=True))
        assert put_cells(decode(bytes.fromhex(case["old"]), 65_536), cells).hex() == case["new"]


@pytest.mark.parametrize("case", VECTORS["reject"], ids=lambda case: case["description"])
def test_rejected(case: dict[str, Any]) -> None:
    """What the page forbids raises one of our errors."""
    with pytest.raises(GsyncError):
        DECODE[case["kind"]](bytes.fromhex(case["hex"]))


def test_refs_come_once_in_order() -> None:
    """A list of refs has one encoding: a name twice, or out of order, is refused."""
    good = ["deploy/a", "main", "tags/a"]
    for names in (["main", "main"], ["main", "deploy/a"], good[::-1]):
        refs = [[name, bytes(32)] for name in names]
        with pytest.raises(Invalid):
            messages.decode_welcome(encode([1, 1, [1, 1, 1, 1, 1], refs, None, []]))
    refs = [[name, bytes(32)] for name in good]
    assert (
        list(messages.decode_welcome(encode([1, 1, [1, 1, 1, 1, 1], refs, None, []])).refs) == good
    )
