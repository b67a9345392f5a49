"""`content/config.yaml`: where documents are, and whose they are (17-documents, section 1)."""

from __future__ import annotations

import posixpath
from typing import Any

from gsync.errors import Invalid
from gsync.frozen import frozen


@frozen
class Source:
    """A source of documents.

    Attributes:
        name: What the file calls it.
        source_id: What rows call it.
        directory: Where its files are, from the top of the folder, without a slash at its end.
        category_id: The category of documents that name none.
        kinds: The kinds that are its documents; all if empty.
        recursive: Whether files in directories below count.
    """

    name: str
    source_id: str
    directory: str
    category_id: str | None = None
    kinds: tuple[str, ...] = ()
    recursive: bool = True

    def holds(self, path: str) -> bool:
        """Return whether a path is one of its documents' by its name."""
        below = path.removeprefix(f"{self.directory}/")
        return below != path and path.endswith(".md") and (self.recursive or "/" not in below)


def parse_sources(path: str, data: bytes) -> tuple[Source, ...]:
    """Return the sources that are enabled and hold documents, by name.

    Args:
        path: Where the file is, from the top of the folder; paths in it begin above its directory.

    Raises:
        Invalid: it is not what it has to be.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(data.decode())
    except (YAMLError, UnicodeDecodeError, ValueError) as error:
        raise Invalid(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    table = document.get("content_sources") if isinstance(document, dict) else None
    if not isinstance(table, dict):
        raise Invalid(f"{path}: expected a map 'content_sources', found none")
    top = posixpath.dirname(posixpath.dirname(path))
    found: list[Source] = []
    for name, inner in sorted(table.items(), key=lambda item: str(item[0])):
        reader = _Reader(path, str(name), inner)
        if not reader.flag("enabled", True):
            continue
        kinds = reader.texts("allowed_content_types")
        if "skill" in kinds:
            continue
        indexing = _Reader(path, f"{name}.indexing", inner.get("indexing") or {})
        found.append(
            Source(
                str(name),
                reader.text("source_id") or reader.wrong("source_id is missing"),
                _joined(top, reader.text("path") or reader.wrong("path is missing"), reader),
                reader.text("category_id") or None,
                kinds,
                indexing.flag("recursive", True),
            )
        )
    for one in found:
        for other in found:
            if one is not other and one.source_id == other.source_id:
                raise Invalid(f"{path}: {one.name} and {other.name} are both {one.source_id!r}")
            if one is not other and f"{one.directory}/".startswith(f"{other.directory}/"):
                raise Invalid(f"{path}: {one.name} lies in {other.name}: its files would be both")
    return tuple(found)


def _joined(top: str, path: str, reader: _Reader) -> str:
    parts = path.strip("/").split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        reader.wrong(f"path: expected one below the services, found {path!r}")
    return posixpath.join(top, *parts)


class _Reader:
    def __init__(self, path: str, name: str, table: Any) -> None:
        self._path, self._name, self._table = path, name, table
        if not isinstance(table, dict):
            self.wrong("expected a map")

    def wrong(self, message: str) -> Any:
        raise Invalid(f"{self._path}: content_sources.{self._name}: {message}")

    def text(self, key: str) -> str:
        value = self._table.get(key)
        if value is None:
            return ""
        return value if isinstance(value, str) else self.wrong(f"{key}: expected a text")

    def flag(self, key: str, default: bool) -> bool:
        value = self._table.get(key, default)
        return value if isinstance(value, bool) else self.wrong(f"{key}: expected true or false")

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._table.get(key) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.wrong(f"{key}: expected a list of texts")
        return tuple(value)
