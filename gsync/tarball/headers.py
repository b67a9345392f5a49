"""The 512-byte blocks of a tar archive (07-tarball, sections 2 and 4).

Own code and not `tarfile`: that ends quietly at a damaged header, decodes names, and keeps
every member in memory; here names are bytes and what is unclear is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_BYTES = 512
RECORD_BYTES = 10_240  # what GNU tar and Python's tarfile pad an archive to

REGULAR = b"0"
OLD_REGULAR = b"\0"
HARD_LINK = b"1"
SYMLINK = b"2"
DIRECTORY = b"5"
CONTIGUOUS = b"7"
PAX = b"x"
PAX_GLOBAL = b"g"
GNU_LONG_NAME = b"L"
GNU_LONG_LINK = b"K"
GNU_LABEL = b"V"

_NAME_BYTES = 100
_PREFIX_BYTES = 155
_SIZE_LIMIT = 8**11  # the first size that eleven octal digits cannot say
_MAGIC = b"ustar\x0000"
_ZEROS = bytes(BLOCK_BYTES)


class BadHeader(ValueError):
    """A block is no tar header, or says something that readers would not agree on."""


@dataclass(frozen=True, slots=True)
class Header:
    """What one header block says.

    Attributes:
        name: The path as it stands, prefix included.
        type: The type flag, one byte.
        mode: Permission bits.
        size: Bytes of content that follow.
        link: Target of a link.
    """

    name: bytes
    type: bytes
    mode: int
    size: int
    link: bytes


# --- Writing -------------------------------------------------------------------------


def encode_member(
    name: bytes, type_flag: bytes, mode: int, size: int, *, link: bytes = b"", mtime: int = 0
) -> bytes:
    """Return the blocks that stand before the content of a member.

    One ustar block where everything fits, else a pax header before it (rule 2.3).
    """
    records = []
    prefix, base = _split_name(name)
    if len(base) > _NAME_BYTES:
        records.append((b"path", name))
        prefix, base = b"", base[:_NAME_BYTES]
    if len(link) > _NAME_BYTES:
        records.append((b"linkpath", link))
    if size >= _SIZE_LIMIT:
        records.append((b"size", b"%d" % size))
    block = _encode_block(base, prefix, type_flag, mode, size, link[:_NAME_BYTES], mtime)
    return _encode_pax(records, mtime) + block if records else block


def padding(size: int) -> bytes:
    """Return the zeros that fill the last block of a content of `size` bytes."""
    return _ZEROS[: -size % BLOCK_BYTES]


def _split_name(name: bytes) -> tuple[bytes, bytes]:
    """Return prefix and name, split at the first slash that leaves a name short enough."""
    if len(name) <= _NAME_BYTES:
        return b"", name
    at = name.find(b"/", len(name) - _NAME_BYTES - 1, -1)
    if 0 < at <= _PREFIX_BYTES:
        return name[:at], name[at + 1 :]
    return b"", name


def _encode_pax(records: list[tuple[bytes, bytes]], mtime: int) -> bytes:
    if any(not _is_utf8(value) for _, value in records):
        records = [(b"hdrcharset", b"BINARY"), *records]
    body = b"".join(_encode_record(key, value) for key, value in records)
    block = _encode_block(b"././@PaxHeader", b"", PAX, 0o644, len(body), b"", mtime)
    return block + body + padding(len(body))


def _encode_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encode_block(
    name: bytes, prefix: bytes, type_flag: bytes, mode: int, size: int, link: bytes, mtime: int
) -> bytes:
    fields = [
        name.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"0000000\0",  # uid
        b"0000000\0",  # gid
        b"%011o\0" % size if size < _SIZE_LIMIT else b"\x80" + size.to_bytes(11, "big"),
        b"%011o\0" % mtime,
        b" " * 8,  # the checksum counts itself as spaces
        type_flag,
        link.ljust(100, b"\0"),
        _MAGIC,
        bytes(32 + 32),  # owner and group
        b"0000000\0",  # device
        b"0000000\0",
        prefix.ljust(155, b"\0"),
        bytes(12),
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


# --- Reading -------------------------------------------------------------------------


def parse_block(block: bytes) -> Header | None:
    """Return what a header block says, or None for the block of zeros that ends an archive.

    Raises:
        BadHeader: the checksum is wrong, or a number is none.
    """
    if block == _ZEROS:
        return None
    outside = block[:148] + b" " * 8 + block[156:]
    checksum = _number(block[148:156], "checksum")
    if sum(outside) != checksum and _signed_sum(outside) != checksum:
        raise BadHeader("the header's checksum is wrong")
    name = _text(block[:100])
    # GNU's own magic is "ustar  ": there the prefix holds other things.
    if block[257:263] == b"ustar\0" and block[345]:
        name = _text(block[345:500]) + b"/" + name
    return Header(
        name,
        block[156:157],
        _number(block[100:108], "mode"),
        _number(block[124:136], "size"),
        _text(block[157:257]),
    )


def parse_pax(body: bytes) -> dict[bytes, bytes]:
    """Return the records of a pax header.

    Raises:
        BadHeader: it is not made of records, or has one twice.
    """
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        digits = body[at : body.find(b" ", at, at + 12)]
        if not digits.isdigit() or digits.startswith(b"0"):
            raise BadHeader("a pax record does not begin with its length")
        end = at + int(digits)
        key, is_pair, value = body[at + len(digits) + 1 : end].partition(b"=")
        if end > len(body) or not key or not is_pair or not value.endswith(b"\n"):
            raise BadHeader("a pax record is not 'LENGTH KEY=VALUE' and a newline")
        if key in records:
            raise BadHeader(f"pax record {key.decode('ascii', 'replace')!r} twice")
        records[key] = value[:-1]
        at = end
    return records


def _signed_sum(data: bytes) -> int:
    """Return what some old writers took for the checksum."""
    return sum(data) - 256 * sum(byte > 127 for byte in data)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes, what: str) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if set(digits) - set(b"01234567"):
        raise BadHeader(f"the {what} is not a number")
    return int(digits, 8)
