"""A document: what its file says, and what of that a row holds (17-documents)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from hashlib import sha256
from typing import Any

from blake3 import blake3

from gsync.frozen import as_dict, frozen
from gsync.objects.encoding import encode
from gsync.views.documents.frontmatter import (
    WHITE,
    BadFile,
    Edit,
    FrontMatter,
    Problem,
    Scalar,
    edit,
    quote,
    read_front_matter,
    to_lines,
)
from gsync.views.documents.sources import Source

DOCUMENT_BYTES_MAX = 8 << 20
LOCALE = "en"
_SLUG = re.compile(r"(?:[a-z0-9-]+(?:/[a-z0-9-]+)*)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LOCALE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,34}")


@frozen
class Document:
    """What a document says, whichever side it is read from.

    Attributes:
        published_at: `YYYY-MM-DD`.
        category_id: The document's own, else its source's.
        links: Canonical JSON: a list of objects with `title` and `url`.
        body: Without white space at its ends.
    """

    slug: str
    locale: str
    title: str
    description: str
    body: str
    author: str
    published_at: str
    keywords: str
    kind: str
    image: str | None
    category_id: str | None
    public: bool
    links: str

    def cells(self) -> dict[str, Any]:
        """Return what is not its key, by the column's name."""
        found = as_dict(self)
        del found["slug"], found["locale"]
        return found


COLUMNS = (
    *("title", "description", "body", "author", "published_at", "keywords", "kind", "image"),
    *("category_id", "public", "links"),
)
_KEYS = {"category_id": "category"}
"""The keys of front matter that are not called as their columns are."""


def version_hash(cells: Mapping[str, Any]) -> str:
    """Return the hash by which the older system's ingestion knows a row (17-documents, 3.3)."""
    texts = [cells[name] or "" for name in ("title", "body", "description", "author")]
    public = "true" if cells["public"] else "false"
    joined = "".join([*texts, f"{cells['published_at'][:10]} 00:00:00 UTC", public])
    return sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


def content_hash(cells: Mapping[str, Any], names: Iterable[str] = COLUMNS) -> str:
    """Return the hash of a document's cells, whichever side they are from (17-documents, 3.5).

    Args:
        names: Which of them count: what the table has.
    """
    pairs = []
    for name in sorted(names):
        cell = normal(name, cells[name])
        pairs.append([name, ("true" if cell else "false") if isinstance(cell, bool) else cell])
    return blake3(encode(pairs)).hexdigest()


def normal(name: str, cell: Any) -> Any:
    """Return a cell without what no file holds: equal ones are alike (17-documents, 3.2)."""
    if name == "body":
        return (cell or "").replace("\r\n", "\n").strip(WHITE)
    if name == "published_at":
        return cell[:10] if isinstance(cell, str) else cell
    if name == "links":
        return canonical_links(cell)
    if name == "image":
        return cell or None
    if name in ("description", "keywords"):
        return cell or ""
    return cell


def canonical_links(text: str | None) -> str:
    """Return links as JSON with sorted keys and no blanks; what is no JSON as it is."""
    if not text:
        return "[]"
    try:
        return write_links(json.loads(text))
    except ValueError:
        return text


def write_links(links: Any) -> str:
    """Return links as canonical JSON."""
    return json.dumps(links, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


# --- From files ------------------------------------------------------------------------


def read_document(path: str, data: bytes, source: Source) -> Document | None:
    """Return the document that a file is, or None if it is none of its source's.

    Raises:
        BadFile: it is one, and says what a document cannot; all that is wrong with it.
    """
    front = read_front_matter(path, data)
    return None if front is None else _Reader(front).read(source)


class _Reader:
    def __init__(self, front: FrontMatter) -> None:
        self._front = front
        self._problems: list[Problem] = []

    def read(self, source: Source) -> Document | None:
        kind = self._front.keys.get("kind")
        if kind is not None and isinstance(kind.value, Scalar) and kind.value.tag == "str":
            is_other = bool(source.kinds) and kind.value.text not in source.kinds
            if is_other:
                return None
        document = Document(
            slug=self._slug(),
            locale=self._locale(),
            title=self._needed("title"),
            description=self._text("description") or "",
            body=self._front.body.strip(WHITE),
            author=self._needed("author"),
            published_at=self._published_at(),
            keywords=self._text("keywords") or "",
            kind=self._needed("kind"),
            image=self._text("image") or None,
            category_id=self._text("category") or source.category_id,
            public=self._public(),
            links=self._links(),
        )
        at = self._front.text.find("\0")
        if at >= 0:
            self._problems.append(
                Problem(self._front.path, *self._front.place(at), "a character NUL")
            )
        if self._problems:
            raise BadFile(self._problems)
        return document

    def _problem(self, message: str, key: str) -> None:
        self._problems.append(self._front.problem(message, key))

    def _text(self, name: str) -> str | None:
        key = self._front.keys.get(name)
        if key is None:
            return None
        found = key.value
        if isinstance(found, Scalar) and found.tag == "null":
            return None
        if isinstance(found, Scalar) and found.tag == "str":
            if "\0" in found.text:
                self._problem(f"{name} has a character NUL", name)
            elif any("\ud800" <= char <= "\udfff" for char in found.text):
                self._problem(f"{name} has half a character", name)
            return found.text
        what = f"{found.text!r}: quote it" if isinstance(found, Scalar) else "a list or a map"
        if isinstance(found, Scalar) and found.tag in ("anchor", "tag"):
            what = f"an {found.tag} of YAML"
        self._problem(f"{name}: expected a text, found {what}", name)
        return ""

    def _needed(self, name: str) -> str:
        found = self._text(name)
        if found is None or not found.strip(WHITE):
            if not any(problem.message.startswith(f"{name}: ") for problem in self._problems):
                self._problem(f"{name} is missing" if found is None else f"{name} is blank", name)
            return ""
        return found

    def _slug(self) -> str:
        found = self._text("slug")
        if found is None:
            self._problem("slug is missing", "slug")
        elif not _SLUG.fullmatch(found):
            self._problem(
                f"slug: expected segments of a-z, 0-9 and '-' joined by '/', found {found[:80]!r}",
                "slug",
            )
        return found or ""

    def _locale(self) -> str:
        found = self._text("locale")
        if found is None:
            return LOCALE
        if not _LOCALE.fullmatch(found):
            self._problem(
                f"locale: expected such as 'en' or 'pt-BR', found {found[:40]!r}", "locale"
            )
        return found

    def _published_at(self) -> str:
        key = self._front.keys.get("published_at")
        if key is None:
            self._problem("published_at is missing", "published_at")
            return ""
        found = key.value
        shown = "a list or a map"
        if isinstance(found, Scalar):
            if found.tag in ("str", "timestamp") and _is_day(found.text):
                return found.text
            shown = repr(found.text[:40])
        self._problem(f"published_at: expected a day, YYYY-MM-DD, found {shown}", "published_at")
        return ""

    def _public(self) -> bool:
        key = self._front.keys.get("public")
        if key is None:
            return True
        found = key.value
        if isinstance(found, Scalar) and found.tag in ("bool", "null"):
            return found.tag == "null" or found.text.lower() == "true"
        shown = repr(found.text[:40]) if isinstance(found, Scalar) else "a list or a map"
        self._problem(f"public: expected true or false, found {shown}", "public")
        return True

    def _links(self) -> str:
        key = self._front.keys.get("links")
        if key is None or (isinstance(key.value, Scalar) and key.value.tag == "null"):
            return "[]"
        links = []
        for item in key.value if isinstance(key.value, list) else [None]:
            if not isinstance(item, dict) or item.keys() != {"title", "url"}:
                break
            if any(not isinstance(v, Scalar) or v.tag != "str" for v in item.values()):
                break
            links.append({name: value.text for name, value in item.items()})
        else:
            return write_links(links)
        self._problem("links: expected a list of texts 'title' and 'url'", "links")
        return "[]"


def _is_day(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


# --- To files --------------------------------------------------------------------------


class NotHeld(Exception):
    """A row says something that no file of its source can say."""


def write_document(
    path: str, data: bytes, source: Source, cells: Mapping[str, Any], changed: Mapping[str, Any]
) -> bytes:
    """Return a document's file with some cells changed; everything else stays, byte for byte.

    Args:
        cells: What the file is to say, all of it.
        changed: Those cells of it that it does not say yet.

    Raises:
        NotHeld: read again, the file would not say so.
    """
    front = read_front_matter(path, data)
    assert front is not None
    edits: dict[str, Edit] = {}
    for name, cell in changed.items():
        if name not in ("body", "version_hash"):
            edits[_KEYS.get(name, name)] = _edit_of(name, cell, source)
    body = normal("body", cells["body"]) if "body" in changed else None
    try:
        text = edit(front, edits, body)
    except (IndexError, ValueError) as error:
        raise NotHeld(f"{path}: its front matter cannot be edited") from error
    return _checked(path, text, source, cells)


def new_document(
    path: str, source: Source, slug: str, locale: str, cells: Mapping[str, Any]
) -> bytes:
    """Return the file of a document that has none yet (17-documents, 5.3).

    Raises:
        NotHeld: read again, it would not say what `cells` say.
    """
    lines = ["---"]
    for name in ("title", "description", "author", "slug", "keywords", "image", "kind"):
        value = slug if name == "slug" else cells[name]
        if value or name in ("title", "author", "slug", "kind"):
            lines.append(f"{name}: {quote(value or '')}")
    if cells["category_id"] and cells["category_id"] != source.category_id:
        lines.append(f"category: {quote(cells['category_id'])}")
    if locale != LOCALE:
        lines.append(f"locale: {quote(locale)}")
    lines.append(f"public: {'true' if cells['public'] else 'false'}")
    lines.append(f"published_at: {quote(normal('published_at', cells['published_at']))}")
    try:
        links = json.loads(canonical_links(cells["links"]))
        shown = [f"  - title: {quote(x['title'])}\n    url: {quote(x['url'])}" for x in links]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotHeld(f"{path}: its links are no list of titles and URLs") from error
    if shown:
        lines += ["links:", *shown]
    body = normal("body", cells["body"])
    text = "\n".join([*lines, "---", "", to_lines(body, "\n"), ""])
    return _checked(path, text, source, cells)


def _edit_of(name: str, cell: Any, source: Source) -> Edit:
    """Return what the key of a column is to hold; None where its absence says it."""
    if name == "links":
        try:
            links = json.loads(canonical_links(cell))
            return [{"title": link["title"], "url": link["url"]} for link in links] or None
        except (ValueError, TypeError, KeyError) as error:
            raise NotHeld("its links are no list of titles and URLs") from error
    if name == "published_at":
        return str(normal(name, cell))
    if name == "category_id" and cell == source.category_id:
        return None
    return cell if isinstance(cell, bool) or cell is None else str(cell)


def _checked(path: str, text: str, source: Source, cells: Mapping[str, Any]) -> bytes:
    try:
        data = text.encode()
        found = read_document(path, data, source)
    except BadFile as error:
        raise NotHeld(f"{path} would have {error.problems[0].message}") from error
    except UnicodeEncodeError as error:
        raise NotHeld(f"{path} would not be UTF-8") from error
    if found is None:
        raise NotHeld(f"{path}: a document of kind {cells['kind']!r} is none of this source")
    says = found.cells()
    for name in COLUMNS:
        if normal(name, says[name]) != normal(name, cells[name]):
            raise NotHeld(f"{path}: no file of this source can have such a {name}")
    return data


def default_path(source: Source, slug: str, locale: str) -> str:
    """Return where a document without a file gets one.

    Raises:
        NotHeld: its slug or locale is none that can be joined to a path.
    """
    if not _SLUG.fullmatch(slug):
        raise NotHeld(f"the slug {slug[:80]!r} is no path")
    if not _LOCALE.fullmatch(locale):
        raise NotHeld(f"the locale {locale[:40]!r} is no part of a name")
    middle = "" if locale == LOCALE else f".{locale}"
    if not slug:
        name = f"index{middle}.md"
    elif source.name == "blog":
        name = f"{slug}/index{middle}.md"
    else:
        name = f"{slug}{middle}.md"
    return f"{source.directory}/{name}"
