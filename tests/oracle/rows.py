"""Page 11: schemas, views, keys, rows, canonical JSON and text forms, from the page alone."""

import datetime
import json
import re
from itertools import pairwise

from oracle.chunks import build_list, cut
from oracle.manifests import rising, text
from oracle.oracle import BLOB, Bad, Ref, build_map, decode, encode, is_int, need, object_id, record

TIMES = ["date", "timestamp", "timestamptz"]
IN_KEYS = ["bool", "int", "numeric", "text", "bytes", "uuid", *TIMES]
TYPES = [*IN_KEYS, "float", "jsonb", "text[]"]
ACTIONS = ["no action", "restrict", "cascade", "set null", "set default"]
NUMERIC = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")


def days_before_year(year):
    return (year - 1) * 365 + (year - 1) // 4 - (year - 1) // 100 + (year - 1) // 400


DAY = 86400 * 10**6  # microseconds
FAR = (days_before_year(294246) - days_before_year(1970)) * DAY
FIRST_DAY, LAST_DAY = -2440588, days_before_year(5874898) - days_before_year(1970) - 1


# --- 2 and 3: schemas and views ---


def strict(rows):
    return all(a < b for a, b in pairwise(rows))


def name_of(v):
    return text(v, 1, 255) and "\0" not in v


def names(v):
    need(isinstance(v, list) and v and all(map(name_of, v)), "names of columns")
    return [x.encode() for x in v]


def check_extras(extras):
    need(isinstance(extras, list) and len(extras) <= 64, "extras")
    for x in extras:
        need(isinstance(x, list) and len(x) == 2 and text(x[0], 1, 255), "layout of an extra")
    need(rising([x[0] for x in extras]), "extras are not sorted")


def check_schema(body):
    _, table, key, columns, unique, foreign, extras = record(body, 7, 262144)
    need(name_of(table), "name of the table")
    need(all(isinstance(v, list) for v in (key, columns, unique, foreign)), "layout")
    need(len(key) >= 1, "no key column")
    for c in key:
        need(isinstance(c, list) and len(c) == 2 and name_of(c[0]), "layout of a key column")
        need(c[1] in IN_KEYS, "type of a key column")
    for c in columns:
        need(isinstance(c, list) and len(c) == 6 and name_of(c[1]), "layout of a column")
        need(is_int(c[0]) and 0 <= c[0] <= 65534 and c[2] in TYPES, "slot or type")
        need(isinstance(c[3], bool) and c[4] is None and isinstance(c[5], bool), "column")
    need(strict([c[0] for c in columns]), "slots do not rise")
    live = [c[1] for c in columns if not c[5]]
    here = [c[0] for c in key] + live
    need(len(here) == len(set(here)) <= 1600, "columns twice, or too many")
    for c in columns:
        later = {d[1] for d in columns if d[0] < c[0] and not d[5]}
        need(not c[5] or c[1] not in later, "a retired column behind the live one of its name")
    for u in unique:
        need(strict(names(u)) and set(u) <= set(here), "columns of a unique constraint")
        need(set(u) != {c[0] for c in key}, "the key as a unique constraint")
    need(strict([names(u) for u in unique]), "unique constraints are not sorted")
    for f in foreign:
        need(isinstance(f, list) and len(f) == 4 and name_of(f[1]), "layout of a foreign key")
        need(strict(names(f[0])) and set(f[0]) <= set(here), "columns of a foreign key")
        need(len(names(f[2])) == len(f[0]) and f[3] in ACTIONS, "parent columns or action")
    order = [[names(f[0]), f[1].encode(), names(f[2]), f[3].encode()] for f in foreign]
    need(strict(order), "foreign keys are not sorted")
    check_extras(extras)


def check_view(body):
    _, columns, condition, extras = record(body, 4, 262144)
    need(isinstance(columns, list), "layout")
    if condition is not None:
        check_filter(condition, 0)
    for c in columns:
        need(isinstance(c, list) and len(c) == 2 and name_of(c[0]), "layout of a column")
        need(c[1] in ("local", "volatile", "excluded"), "role")
    need(rising([c[0] for c in columns]), "columns are not sorted")
    check_extras(extras)


def check_filter(found, depth):
    need(isinstance(found, list) and len(found) == 2 and depth < 8, "layout of a filter")
    conditions, follow = found
    need(isinstance(conditions, list) and (conditions or follow is not None), "an empty filter")
    for c in conditions:
        need(isinstance(c, list) and len(c) == 3 and name_of(c[0]), "layout of a condition")
        need(c[1] in ("bool", "int", "text", "uuid"), "type of a condition")
        need(isinstance(c[2], list) and 1 <= len(c[2]) <= 1000, "cells of a condition")
        for cell in c[2]:
            kind = {"bool": bool, "int": int, "text": str, "uuid": bytes}[c[1]]
            need(type(cell) is kind, "cell of a condition")
            need(not isinstance(cell, bytes) or len(cell) == 16, "a uuid of a condition")
            need(c[1] != "int" or -(1 << 63) <= cell < 1 << 63, "an integer of a condition")
        need(strict([encode(cell) for cell in c[2]]), "cells are not sorted")
    need(strict([c[0].encode() for c in conditions]), "conditions are not sorted")
    if follow is not None:
        need(isinstance(follow, list) and len(follow) == 4 and name_of(follow[1]), "follow")
        need(len(names(follow[0])) == len(names(follow[2])) > 0, "columns of a follow")
        check_filter(follow[3], depth + 1)


# --- 4: keys ---


def escaped(raw):
    return raw.replace(b"\0", b"\0\xff") + b"\0"


def inverted(raw):
    return bytes(255 - b for b in raw)


def encode_numeric(cell):
    special = {"-Infinity": b"\0", "Infinity": b"\4", "NaN": b"\5"}
    if cell in special:
        return special[cell]
    whole, _, fraction = cell.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return b"\2" + len(fraction).to_bytes(2, "big")
    tail = (len(digits) - len(fraction) + 2**23).to_bytes(3, "big") + digits.encode() + b"\0"
    return b"\1" + inverted(tail) if cell.startswith("-") else b"\3" + tail


def encode_key_cell(type, cell):
    need(type in IN_KEYS, "type that is not in keys")
    check_cell(type, cell)
    need(cell is not None, "NULL in a key")
    if type == "bool":
        return b"\x11" if cell else b"\x10"
    if type in ("int", *TIMES):
        ends = {"-infinity": b"\x1f", "infinity": b"\x2f"}
        need(is_int(cell) or cell in ends, "a timestamp that is text")
        return ends[cell] if cell in ends else b"\x20" + (cell + 2**63).to_bytes(8, "big")
    if type == "numeric":
        return b"\x21" + encode_numeric(cell)
    if type == "text":
        return b"\x40" + escaped(cell.encode())
    return b"\x42" + cell if type == "uuid" else b"\x41" + escaped(cell)


def encode_key(types, cells):
    key = b"".join(encode_key_cell(t, c) for t, c in zip(types, cells, strict=True))
    need(1 <= len(key) <= 4096, "length of the key")
    return key


def decode_key(key):
    """The cells of a key; what they do not encode to is refused."""
    cells, types = [], []
    while key:
        type, cell, n = decode_key_cell(key)
        need(encode_key_cell(type, cell) == key[:n], "second spelling")
        cells.append(cell)
        types.append(type)
        key = key[n:]
    need(encode_key(types, cells), "length")
    return cells


def decode_key_cell(key):
    tag, rest = key[0], key[1:]
    if tag in (0x10, 0x11):
        return "bool", tag == 0x11, 1
    if tag in (0x1F, 0x2F):
        return "date", "-infinity" if tag == 0x1F else "infinity", 1
    if tag == 0x20:
        return "int", int.from_bytes(rest[:8], "big") - 2**63, 9
    if tag == 0x42:
        return "uuid", rest[:16], 17
    if tag in (0x40, 0x41):
        found = re.match(rb"((?:[^\0]|\0\xff)*)\0", rest, re.DOTALL)
        if not found:
            raise Bad("no end")
        raw = found[1].replace(b"\0\xff", b"\0")
        good = tag == 0x41 or raw.decode(errors="replace").encode() == raw
        need(good, "not UTF-8")
        return (
            ("text", raw.decode(), 1 + found.end())
            if tag == 0x40
            else ("bytes", raw, 1 + found.end())
        )
    need(tag == 0x21 and rest, "unknown tag")
    return decode_numeric(rest)


def decode_numeric(rest):
    kind = rest[0]
    if kind in (0, 4, 5):
        return "numeric", {0: "-Infinity", 4: "Infinity", 5: "NaN"}[kind], 2
    if kind == 2:
        zeros = int.from_bytes(rest[1:3], "big")
        return "numeric", "0" + ("." + "0" * zeros if zeros else ""), 4
    need(kind in (1, 3), "unknown class")
    tail = inverted(rest[1:]) if kind == 1 else rest[1:]
    point = int.from_bytes(tail[:3], "big") - 2**23
    found = re.match(rb"([0-9]+)\0", tail[3:])
    if not found or not -16383 < point <= len(found[1]):
        raise Bad("number")
    digits = found[1].decode().rjust(len(found[1]) + max(0, 1 - point), "0")
    point = max(1, point)
    out = digits[:point] + ("." + digits[point:] if digits[point:] else "")
    return "numeric", "-" + out if kind == 1 else out, 2 + 3 + found.end()


# --- 5: rows ---


def name(content):
    """The reference to a content, by page 02."""
    if len(content) <= 131072:
        return Ref(BLOB, object_id(BLOB, content), len(content))
    ends = [0, *cut(content)]
    pieces = [content[a:b] for a, b in pairwise(ends)]
    return build_list([Ref(BLOB, object_id(BLOB, p), len(p)) for p in pieces])[0]


def content(cell):
    if isinstance(cell, str):
        return cell.encode()
    return cell if isinstance(cell, bytes) else encode(cell) if isinstance(cell, list) else b""


def encode_row(cells, spill=name):
    """The row for the cells by slot, None at retired slots."""
    row = list(cells)
    while row and row[-1] is None:
        row.pop()
    size = [len(content(c)) for c in row]
    for i, n in enumerate(size):
        if n > 1024:
            row[i] = spill(content(row[i]))
    for _, i in sorted((-n, i) for i, n in enumerate(size) if 64 < n <= 1024):
        if len(encode(row)) > 8192:
            row[i] = spill(content(row[i]))
    body = encode(row)
    need(len(body) <= 65536, "row too long")
    return body


def check_row(body, types):
    """Refuse what no row of these types encodes to; None stands for a retired slot."""
    need(len(body) <= 65536, "row too long")
    row = decode(body)
    need(isinstance(row, list) and len(row) <= len(types), "not a row of this width")
    need(not row or row[-1] is not None, "nil at the end")
    back = []
    for type, cell in zip(types, row, strict=False):
        if not isinstance(cell, Ref):
            need(type or cell is None, "cell at a retired slot")
            check_cell(type, cell)
            back.append(cell)
            continue
        need(type in ("numeric", "text", "bytes", "jsonb", "text[]"), "reference in this type")
        need(cell.kind == (1 if cell.length <= 131072 else 2) and cell.length > 64, "reference")
        # A stand-in of the same length under the same head; an array has its head inside.
        n = min(cell.length, 1025)
        back.append([None] * (n - 3) if type == "text[]" else "x" * n)
    again = decode(encode_row(back, lambda c: Ref(1, bytes(32), len(c))))
    spilled = [isinstance(c, Ref) for c in again]
    need(spilled == [isinstance(c, Ref) for c in row], "not the cells that spill")


# --- 6: cells, their text, canonical JSON ---


def shape(cells):
    """[length of each dimension] of nested arrays of text and nil."""
    inner = [shape(c) for c in cells if isinstance(c, list)]
    need(len(inner) in (0, len(cells)), "arrays beside elements")
    need(all(isinstance(c, (str, list)) or c is None for c in cells), "element")
    need(all(s == inner[0] and 0 not in s for s in inner), "arrays of several shapes")
    return [len(cells)] + (inner[0] if inner else [])


def split_bounds(cell):
    """(lower bounds, cells) of an array."""
    if len(cell) != 3 or cell[0] != "#lb" or not isinstance(cell[1], list):
        return [1] * len(shape(cell)), cell
    bounds, cells = cell[1:]
    need(isinstance(cells, list) and cells and len(bounds) == len(shape(cells)), "bounds")
    for b, n in zip(bounds, shape(cells), strict=True):
        need(is_int(b) and b >= -(2**31) and b + n < 2**31, "bound out of range")
    need(bounds != [1] * len(bounds), "bounds that are all 1")
    return bounds, cells


def check_cell(type, cell):
    if cell is None:
        return
    if type == "bool":
        need(isinstance(cell, bool), type)
    elif type == "int" or (type in TIMES and is_int(cell)):
        need(is_int(cell) and -(2**63) <= cell < 2**63, "integer out of range")
        need(type != "date" or FIRST_DAY <= cell <= LAST_DAY, "a date out of range")
        need(type[:4] != "time" or FIRST_DAY * DAY <= cell < FAR, "a moment out of range")
    elif type == "float":
        need(isinstance(cell, float), type)
    elif type in ("bytes", "uuid"):
        need(isinstance(cell, bytes) and (type == "bytes" or len(cell) == 16), type)
    elif type == "text[]":
        need(isinstance(cell, list), type)
        need(len(shape(split_bounds(cell)[1])) <= 6, "dimensions")
    else:
        need(isinstance(cell, str) and not re.search("[\ud800-\udfff]", cell), type)
        if type == "numeric" and cell not in ("NaN", "Infinity", "-Infinity"):
            need(NUMERIC.fullmatch(cell) and (cell[0] != "-" or cell.strip("-0.")), "numeric")
            whole, _, fraction = cell.lstrip("-").partition(".")
            need(len(whole) <= 131072 and len(fraction) <= 16383, "numeric too long")
        if type == "jsonb":
            need(canonical_json(cell) == cell, "JSON that is not canonical")
        if type in TIMES and cell not in ("infinity", "-infinity"):
            need(type != "date" and far_text(type, cell), "text of a time")


def far_text(type, cell):
    """Whether a text is that of a moment from 294,246 on."""
    zone = r"\+00" if type == "timestamptz" else ""
    m = re.fullmatch(
        r"(\d{6})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{0,5}[1-9]))?" + zone, cell, re.ASCII
    )
    if not m or not 294246 <= int(m[1]) <= 294276:
        return False
    try:  # the Gregorian calendar repeats after 400 years
        year, month, day, hour, minute, second = map(int, m.groups()[:6])
        datetime.date(year % 400 + 2000, month, day)
        datetime.time(hour, minute, second)
    except ValueError:
        return False
    return True


def format_date(days):
    cycles, rest = divmod(days + 719162, 146097)
    day = datetime.date.fromordinal(rest + 1)
    year = day.year + 400 * cycles
    return f"{year if year > 0 else 1 - year:04}-{day:%m-%d}", " BC" if year < 1 else ""


def format_array(cell):
    bounds, cells = split_bounds(cell)

    def item(c):
        if isinstance(c, list):
            return "{" + ",".join(map(item, c)) + "}"
        if c is None:
            return "NULL"
        if c == "" or c.lower() == "null" or re.search('[{},"\\\\ \t\n\v\f\r]', c):
            return '"' + re.sub(r'(["\\])', r"\\\1", c) + '"'
        return c

    ranges = "".join(f"[{b}:{b + n - 1}]" for b, n in zip(bounds, shape(cells), strict=True))
    return (ranges + "=" if set(bounds) != {1} else "") + item(cells)


def format_cell(type, cell):
    if isinstance(cell, str):
        return cell
    if type == "bool":
        return "true" if cell else "false"
    if type == "float":
        special = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
        return special.get(repr(cell), repr(cell))
    if type == "bytes":
        return "\\x" + cell.hex()
    if type == "uuid":
        return re.sub(r"(.{8})(.{4})(.{4})(.{4})(.{12})", r"\1-\2-\3-\4-\5", cell.hex())
    if type == "date":
        return "".join(format_date(cell))
    if type in ("timestamp", "timestamptz"):
        seconds, micro = divmod(cell, 10**6)
        days, second = divmod(seconds, 86400)
        day, bc = format_date(days)
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        fraction = f".{micro:06}".rstrip("0") if micro else ""
        return f"{day} {clock}{fraction}{'+00' if type == 'timestamptz' else ''}{bc}"
    return format_array(cell) if type == "text[]" else str(cell)


class Number(str):
    pass


def canonical_json(source):
    def wrong(constant):
        raise ValueError(constant)

    def members(pairs):
        for pair in pairs:  # so that what a later one replaces is looked at too
            print_json(list(pair))
        return dict(pairs)

    try:
        value = json.loads(
            source,
            parse_int=Number,
            parse_float=Number,
            parse_constant=wrong,
            object_pairs_hook=members,
        )
    except ValueError as error:
        raise Bad(str(error)) from error
    return print_json(value)


def print_json(v):
    if v is None or isinstance(v, bool):
        return {None: "null", True: "true", False: "false"}[v]
    if isinstance(v, Number):
        return print_number(v)
    if isinstance(v, str):
        need(not re.search("[\0\ud800-\udfff]", v), "U+0000 or a lone surrogate")
        short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
        return (
            '"' + "".join(short.get(ord(c), c if c >= " " else f"\\u{ord(c):04x}") for c in v) + '"'
        )
    if isinstance(v, list):
        return "[" + ", ".join(map(print_json, v)) + "]"
    members = [(print_json(k), k, print_json(x)) for k, x in v.items()]
    members.sort(key=lambda m: (len(m[1].encode()), m[1].encode()))
    return "{" + ", ".join(f"{k}: {x}" for k, _, x in members) + "}"


def print_number(v):
    sign, whole, fraction, exponent = re.findall(r"(-?)(\d+)\.?(\d*)[eE]?(.*)", v)[0]
    scale = len(fraction) - int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    need(
        scale <= 16383 and len(digits) - scale <= 131072 or not digits and scale <= 0,
        "number too long",
    )
    if scale <= 0:
        return sign + digits + "0" * -scale if digits else "0"
    out = digits.rjust(scale + 1, "0")
    return (sign if digits else "") + out[:-scale] + "." + out[-scale:]


# --- the map of a table ---


def root(key_types, rows):
    """The root of a table from its rows, (key cells, cells by slot) in any order."""
    return build_map(sorted((encode_key(key_types, k), encode_row(c)) for k, c in rows))[0]
