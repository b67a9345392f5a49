"""Sync keys <-> bytes that sort as the values do (11-rows, section 4)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence

from gsync.errors import Invalid
from gsync.objects.encoding import Value
from gsync.views.rows.numerics import DIGITS_AFTER_MAX, FINITE
from gsync.views.rows.times import DAYS_MAX, DAYS_MIN, MICROSECONDS_END, MICROSECONDS_MIN

KEY_BYTES_MAX = 4096
KeyEncoder = Callable[[Sequence[Value]], bytes]

_BOOL = {False: b"\x10", True: b"\x11"}
_MINUS_INFINITY, _INT, _NUMERIC, _INFINITY = 0x1F, 0x20, 0x21, 0x2F
_TEXT, _BYTES, _UUID = 0x40, 0x41, 0x42
_INFINITIES = {"-infinity": bytes([_MINUS_INFINITY]), "infinity": bytes([_INFINITY])}
_TAGGED_INT = struct.Struct(">BQ")
_SIGN = 1 << 63

# Classes of numerics, in their order.
_NEGATIVE, _ZERO, _POSITIVE = 1, 2, 3
_SPECIAL = {"-Infinity": b"\x21\x00", "Infinity": b"\x21\x04", "NaN": b"\x21\x05"}
_SPECIAL_BY_CLASS = {encoded[1]: cell for cell, encoded in _SPECIAL.items()}
_EXPONENT_BIAS = 1 << 23
_COMPLEMENT = bytes(255 - byte for byte in range(256))
_DIGITS = re.compile(rb"[1-9][0-9]*")


class BadKey(Invalid):
    """Cells are not a key, or bytes are not the encoding of one."""


def encode_key(types: Sequence[str], cells: Sequence[Value]) -> bytes:
    """Return the bytes of the key that `cells` are, of columns of `types`.

    Raises:
        BadKey: a cell is NULL or outside its type, the type has no place in keys, or the
            key is longer than KEY_BYTES_MAX.
    """
    return key_encoder(types)(cells)


def key_encoder(types: Sequence[str]) -> KeyEncoder:
    """Return `encode_key` for keys of columns of `types`, fast: to be made once for a table."""
    for type_ in types:
        if type_ not in _ENCODERS:
            raise BadKey(f"a column of type {type_[:80]} cannot be in a key")
    if not types:
        raise BadKey("a key of no columns")
    if len(types) == 1:
        return _single_int if types[0] == "int" else _single_encoder(types[0])
    return _general_encoder(types)


def decode_key(key: bytes) -> tuple[Value, ...]:
    """Return the cells of a key: dates and times as integers, as no type stands in a key.

    Raises:
        BadKey: `key` is nothing that `encode_key` returns.
    """
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise BadKey(f"a key of {len(key)} bytes, expected 1 to {KEY_BYTES_MAX}")
    cells: list[Value] = []
    at = 0
    while at < len(key):
        decode = _DECODERS.get(key[at])
        if decode is None:
            raise BadKey(f"byte {at} of a key is {key[at]:02x}, which begins no value")
        cell, at = decode(key, at)
        cells.append(cell)
    return tuple(cells)


# --- Encoding ------------------------------------------------------------------------


def _single_int(cells: Sequence[Value]) -> bytes:
    (cell,) = cells
    if type(cell) is int:
        try:
            return _TAGGED_INT.pack(_INT, cell + _SIGN)
        except struct.error:
            pass
    raise _outside("int", cell)


def _single_encoder(type_: str) -> KeyEncoder:
    encode = _ENCODERS[type_]

    def encode_single(cells: Sequence[Value]) -> bytes:
        (cell,) = cells
        key = encode(type_, cell)
        if len(key) > KEY_BYTES_MAX:
            raise _too_long(key)
        return key

    return encode_single


def _general_encoder(types: Sequence[str]) -> KeyEncoder:
    columns = [(type_, _ENCODERS[type_]) for type_ in types]

    def encode_general(cells: Sequence[Value]) -> bytes:
        if len(cells) != len(columns):
            raise BadKey(f"{len(cells)} cells for a key of {len(columns)} columns")
        key = b"".join([
            encode(type_, cell) for (type_, encode), cell in zip(columns, cells, strict=True)
        ])  # fmt: skip
        if len(key) > KEY_BYTES_MAX:
            raise _too_long(key)
        return key

    return encode_general


def _encode_bool(type_: str, cell: Value) -> bytes:
    if type(cell) is bool:
        return _BOOL[cell]
    raise _outside(type_, cell)


def _encode_int(type_: str, cell: Value) -> bytes:
    if type(cell) is int:
        try:
            return _TAGGED_INT.pack(_INT, cell + _SIGN)
        except struct.error:
            pass
    raise _outside(type_, cell)


def _encode_date(type_: str, cell: Value) -> bytes:
    if type(cell) is str and cell in _INFINITIES:
        return _INFINITIES[cell]
    if type(cell) is int and DAYS_MIN <= cell <= DAYS_MAX:
        return _TAGGED_INT.pack(_INT, cell + _SIGN)
    raise _outside(type_, cell)


def _encode_time(type_: str, cell: Value) -> bytes:
    if type(cell) is str:
        if cell in _INFINITIES:
            return _INFINITIES[cell]
        raise BadKey(f"the {type_} {cell[:40]!r} is too late to be in a key")
    if type(cell) is int and MICROSECONDS_MIN <= cell < MICROSECONDS_END:
        return _TAGGED_INT.pack(_INT, cell + _SIGN)
    raise _outside(type_, cell)


def _encode_numeric(type_: str, cell: Value) -> bytes:
    if type(cell) is not str:
        raise _outside(type_, cell)
    if cell in _SPECIAL:
        return _SPECIAL[cell]
    # Longer ones are refused before the pattern looks at them.
    match = FINITE.fullmatch(cell) if len(cell) <= KEY_BYTES_MAX + DIGITS_AFTER_MAX else None
    if match is None:
        raise _outside(type_, cell)
    sign, before, after = match.group(1), match.group(2), match.group(3) or ""
    if len(after) > DIGITS_AFTER_MAX:
        raise _outside(type_, cell)
    digits = (before + after).lstrip("0")
    if not digits:
        if sign:
            raise _outside(type_, cell)
        return bytes([_NUMERIC, _ZERO]) + len(after).to_bytes(2, "big")
    exponent = len(digits) - len(after) + _EXPONENT_BIAS
    body = exponent.to_bytes(3, "big") + digits.encode() + b"\0"
    if sign:
        return bytes([_NUMERIC, _NEGATIVE]) + body.translate(_COMPLEMENT)
    return bytes([_NUMERIC, _POSITIVE]) + body


def _encode_text(type_: str, cell: Value) -> bytes:
    if type(cell) is str:
        try:
            body = cell.encode()
        except UnicodeEncodeError:
            raise _outside(type_, cell) from None
        if b"\0" in body:
            body = body.replace(b"\0", b"\0\xff")
        return b"\x40%b\0" % body
    raise _outside(type_, cell)


def _encode_bytes(type_: str, cell: Value) -> bytes:
    if type(cell) is bytes:
        return b"\x41%b\0" % cell.replace(b"\0", b"\0\xff")
    raise _outside(type_, cell)


def _encode_uuid(type_: str, cell: Value) -> bytes:
    if type(cell) is bytes and len(cell) == 16:
        return b"\x42" + cell
    raise _outside(type_, cell)


_ENCODERS: dict[str, Callable[[str, Value], bytes]] = {
    "bool": _encode_bool,
    "int": _encode_int,
    "date": _encode_date,
    "timestamp": _encode_time,
    "timestamptz": _encode_time,
    "numeric": _encode_numeric,
    "text": _encode_text,
    "bytes": _encode_bytes,
    "uuid": _encode_uuid,
}


def _outside(type_: str, cell: Value) -> BadKey:
    if cell is None:
        return BadKey(f"a NULL in a key, where a {type_} is expected")
    return BadKey(f"a key column of type {type_} cannot hold {_shown(cell)}")


def _too_long(key: bytes) -> BadKey:
    return BadKey(
        f"a key of {len(key)} bytes, where {KEY_BYTES_MAX} is the maximum; it begins with"
        f" {key[:40]!r}"
    )


def _shown(cell: Value) -> str:
    # Never prints a long integer: that can cost more than the rest of the scan.
    if type(cell) is int and cell.bit_length() > 128:
        return f"an integer of {cell.bit_length()} bits"
    if type(cell) in (str, bytes):
        cell = cell[:60]
    return f"the {type(cell).__name__} {cell!r}"[:100]


# --- Decoding: each takes the key and where a tag stands -------------------------------


def _decode_bool(key: bytes, at: int) -> tuple[Value, int]:
    return key[at] == 0x11, at + 1


def _decode_infinity(key: bytes, at: int) -> tuple[Value, int]:
    return "infinity" if key[at] == _INFINITY else "-infinity", at + 1


def _decode_int(key: bytes, at: int) -> tuple[Value, int]:
    return int.from_bytes(_take(key, at + 1, 8), "big") - _SIGN, at + 9


def _decode_uuid(key: bytes, at: int) -> tuple[Value, int]:
    return _take(key, at + 1, 16), at + 17


def _decode_text(key: bytes, at: int) -> tuple[Value, int]:
    body, end = _unescape(key, at + 1)
    try:
        return body.decode(), end
    except UnicodeDecodeError:
        raise BadKey(f"the text at byte {at} of a key is not UTF-8") from None


def _decode_bytes(key: bytes, at: int) -> tuple[Value, int]:
    return _unescape(key, at + 1)


def _decode_numeric(key: bytes, at: int) -> tuple[Value, int]:
    (class_,) = _take(key, at + 1, 1)
    at += 2
    if class_ in _SPECIAL_BY_CLASS:
        return _SPECIAL_BY_CLASS[class_], at
    if class_ == _ZERO:
        scale = int.from_bytes(_take(key, at, 2), "big")
        if scale > DIGITS_AFTER_MAX:
            raise BadKey(f"a numeric in a key has {scale} digits after the point")
        return "0." + "0" * scale if scale else "0", at + 2
    if class_ not in (_NEGATIVE, _POSITIVE):
        raise BadKey(f"a numeric in a key has the class {class_:02x}, which is none")
    rest = key[at:].translate(_COMPLEMENT) if class_ == _NEGATIVE else key[at:]
    exponent = int.from_bytes(_take(rest, 0, 3), "big") - _EXPONENT_BIAS
    match = _DIGITS.match(rest, 3)
    if match is None or rest[match.end() : match.end() + 1] != b"\0":
        raise BadKey("a numeric in a key has no digits, or no end")
    sign = "-" if class_ == _NEGATIVE else ""
    return sign + _place_point(match.group().decode(), exponent), at + match.end() + 1


def _place_point(digits: str, exponent: int) -> str:
    scale = len(digits) - exponent
    if not 0 <= scale <= DIGITS_AFTER_MAX:
        raise BadKey(f"a numeric in a key has {scale} digits after the point")
    if scale == 0:
        return digits
    digits = digits.rjust(scale + 1, "0")
    return f"{digits[:-scale]}.{digits[-scale:]}"


def _take(key: bytes, at: int, count: int) -> bytes:
    found = key[at : at + count]
    if len(found) != count:
        raise BadKey(f"a key of {len(key)} bytes ends within a value")
    return found


def _unescape(key: bytes, at: int) -> tuple[bytes, int]:
    """Return the bytes up to the first 00 that no FF follows, and where the next value begins."""
    end = key.find(b"\0", at)
    while end >= 0 and key[end + 1 : end + 2] == b"\xff":
        end = key.find(b"\0", end + 2)
    if end < 0:
        raise BadKey("a text or bytes in a key has no end")
    return key[at:end].replace(b"\0\xff", b"\0"), end + 1


_DECODERS: dict[int, Callable[[bytes, int], tuple[Value, int]]] = {
    0x10: _decode_bool,
    0x11: _decode_bool,
    _MINUS_INFINITY: _decode_infinity,
    _INT: _decode_int,
    _NUMERIC: _decode_numeric,
    _INFINITY: _decode_infinity,
    _TEXT: _decode_text,
    _BYTES: _decode_bytes,
    _UUID: _decode_uuid,
}
