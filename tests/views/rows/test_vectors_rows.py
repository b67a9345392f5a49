"""The vectors of page 11 against gsync."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gsync.errors import Invalid
from gsync.objects.encoding import Reference, Value
from gsync.objects.oid import Kind, blob_id, object_id
from gsync.views.rows.jsontext import canonical_json
from gsync.views.rows.keys import decode_key, encode_key
from gsync.views.rows.schema import decode_schema, decode_view, encode_schema, encode_view
from gsync.views.rows.texts import check_cell, format_cell, parse_cell
from gsync.views.rows.values import decode_row, encode_row, name_content

VECTORS = json.loads((Path(__file__).parents[3] / "spec" / "vectors" / "rows.json").read_text())
SLOTS = 4


def cases(field: str) -> Any:
    """Return what runs a test for every case of one list."""
    return pytest.mark.parametrize("case", VECTORS[field])


def cell_of(shown: Any) -> Value:
    """Return the cell that a case writes as `shown`."""
    match shown:
        case {"bytes": digits}:
            return bytes.fromhex(digits)
        case {"float": text}:
            return parse_cell("float", text)
        case {"integer": text}:
            return int(text)
        case {"repeat": text, "times": count}:
            return text * count
        case list():
            return [cell_of(item) for item in shown]
    return shown


def assert_body(case: dict[str, Any], body: bytes) -> None:
    """Assert that `body` is the one of a case that has it in hex or by its id."""
    if "hex" in case:
        assert body.hex() == case["hex"]
    else:
        assert blob_id(body).hex() == case["id"]
        assert len(body) == case.get("bytes", len(body))


@cases("keys")
def test_keys(case: dict[str, Any]) -> None:
    """Cells have the key of the case, which reads back as them."""
    cells = cell_of(case["cells"])
    key = encode_key(case["types"], cells)
    assert_body(case, key)
    assert list(decode_key(key)) == cells


@cases("reject_keys")
def test_refused_keys(case: dict[str, Any]) -> None:
    """Bytes that are never written are no key."""
    with pytest.raises(Invalid):
        decode_key(bytes.fromhex(case["hex"]))


@cases("reject_key_cells")
def test_refused_key_cells(case: dict[str, Any]) -> None:
    """Cells outside the types of keys make none."""
    with pytest.raises(Invalid):
        encode_key(case["types"], cell_of(case["cells"]))


@cases("rows")
def test_rows(case: dict[str, Any]) -> None:
    """Cells have the row of the case, and the cells it names are spilled."""
    cells = cell_of(case["cells"])
    row = encode_row(cells, name_content)
    assert_body(case, row)
    found = decode_row(row, len(cells))
    spilled = [slot for slot, cell in enumerate(found) if type(cell) is Reference]
    assert spilled == case.get("spilled", [])
    assert encode_row(found, name_content) == row


@cases("reject_rows")
def test_refused_rows(case: dict[str, Any]) -> None:
    """Bytes that are never written are no row."""
    with pytest.raises(Invalid):
        decode_row(bytes.fromhex(case["hex"]), SLOTS)


@cases("schemas")
def test_schemas(case: dict[str, Any]) -> None:
    """A schema decodes, encodes to the same bytes and has its id."""
    body = bytes.fromhex(case["hex"])
    assert encode_schema(decode_schema(body)) == body
    assert object_id(Kind.SCHEMA, body).hex() == case["id"]


@cases("views")
def test_views(case: dict[str, Any]) -> None:
    """A view decodes, encodes to the same bytes and has its id."""
    body = bytes.fromhex(case["hex"])
    assert encode_view(decode_view(body)) == body
    assert object_id(Kind.VIEW, body).hex() == case["id"]


@cases("reject_schemas")
def test_refused_schemas(case: dict[str, Any]) -> None:
    """A schema that breaks the page is refused."""
    with pytest.raises(Invalid):
        decode_schema(bytes.fromhex(case["hex"]))


@cases("reject_views")
def test_refused_views(case: dict[str, Any]) -> None:
    """A view that breaks the page is refused."""
    with pytest.raises(Invalid):
        decode_view(bytes.fromhex(case["hex"]))


@cases("json")
def test_canonical_json(case: dict[str, Any]) -> None:
    """A document has the canonical form of the case, which is its own."""
    found = canonical_json(case["text"])
    if "canonical" in case:
        assert found == case["canonical"]
    else:
        assert blob_id(found.encode()).hex() == case["canonical_id"]
    assert canonical_json(found) == found


@cases("reject_json")
def test_refused_json(case: dict[str, Any]) -> None:
    """What is no JSON, or none that jsonb holds, is refused."""
    with pytest.raises(Invalid):
        canonical_json(case["text"])


@cases("texts")
def test_texts(case: dict[str, Any]) -> None:
    """A cell has the text form of the case, which reads back as the cell."""
    cell = cell_of(case["cell"])
    check_cell(case["type"], cell)
    assert format_cell(case["type"], cell) == case["text"]
    again = parse_cell(case["type"], case["text"])
    assert encode_row([again], name_content) == encode_row([cell], name_content)


@cases("reject_cells")
def test_refused_cells(case: dict[str, Any]) -> None:
    """A value that the type does not have is no cell."""
    with pytest.raises(Invalid):
        check_cell(case["type"], cell_of(case["cell"]))
