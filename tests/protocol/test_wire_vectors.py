"""The vectors of 06-wire: what is accepted means what it says, what is not is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gsync.errors import GsyncError
from gsync.protocol import messages
from gsync.protocol.frames import Patch, decode_patch, encode_frame, patch_frame, read_frames

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
    "patch": decode_patch,
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


@pytest.mark.parametrize("case", VECTORS["accept"], ids=lambda case: case["description"])
def test_accepted(case: dict[str, Any]) -> None:
    """A message decodes, and encodes to the same bytes again; a frame has its name."""
    body = bytes.fromhex(case["hex"])
    value: Any = DECODE[case["kind"]](body)
    if case["kind"] in ENCODE:
        assert ENCODE[case["kind"]](value) == body  # type: ignore[operator]
    if "name" in case:
        assert [frame.name.hex() for frame in value] == [case["name"]]
    if case["kind"] == "patch":
        assert isinstance(value, Patch)
        assert value.base is None
        assert value.target is not None and value.target.hex() == case["target"]
        found = [[key.hex(), entry.hex() if entry else None] for key, entry in value.records]
        assert found == case["records"]
        assert decode_patch(patch_frame(value).body) == value


@pytest.mark.parametrize("case", VECTORS["reject"], ids=lambda case: case["description"])
def test_rejected(case: dict[str, Any]) -> None:
    """What the page forbids raises one of our errors."""
    with pytest.raises(GsyncError):
        DECODE[case["kind"]](bytes.fromhex(case["hex"]))
