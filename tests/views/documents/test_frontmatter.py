"""Front matter edited where it stands: what is set is read back, and nothing else moves."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from gsync.errors import Invalid
from gsync.views.documents.document import (
    NotHeld,
    content_hash,
    default_path,
    new_document,
    read_document,
    version_hash,
    write_document,
)
from gsync.views.documents.frontmatter import BadFile, edit, quote, read_front_matter
from gsync.views.documents.sources import Source, parse_sources

SOURCE = Source("docs", "d", "content/docs", "cat", ("guide",))
STYLES = {
    "plain": "keywords: old words",
    "single": "keywords: 'old ''words'''",
    "double": 'keywords: "old \\"words\\""',
    "literal": "keywords: |\n  old\n  words",
    "folded": "keywords: >-\n  old\n  words",
    "empty": "keywords:",
    "null": "keywords: null",
    "wide": "keywords:    'old'",
    "commented": "keywords: old # why",
    "over lines": 'keywords: "old\n  words"',
}
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60
)


def make(line: str, eol: str = "\n") -> bytes:
    text = (
        f'---\n# top\ntitle: "T"\nauthor: A\nslug: s\nkind: guide\n{line}\n\n# between\n'
        "published_at: 2026-02-18 # day\nother:\n  - {x: 1}\n---\n\nBody\n"
    )
    return text.replace("\n", eol).encode()


@pytest.mark.parametrize("eol", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("style", STYLES)
@given(value=TEXTS)
def test_any_text_in_any_style(style: str, eol: str, value: str) -> None:
    """The value is read back, by ours and by a loader of its own; all other lines stay."""
    data = make(STYLES[style], eol)
    front = read_front_matter("f", data)
    assert front is not None
    new = edit(front, {"keywords": value})
    document = read_document("f", new.encode(), SOURCE)
    assert document is not None and document.keywords == value
    _, head, _ = re.split(r"^---\r?\n", new, flags=re.MULTILINE)
    loaded = YAML(typ="safe", pure=True).load(head)
    assert loaded["keywords"] == value and loaded["other"] == [{"x": 1}]
    old = data.decode()
    before, after = old[: front.keys["keywords"].start], old[front.keys["keywords"].end :]
    assert new.startswith(before) and new.endswith(after)


@given(value=TEXTS)
def test_a_key_that_is_new(value: str) -> None:
    """It is the last line of the front matter."""
    front = read_front_matter("f", make("x: y"))
    assert front is not None
    new = edit(front, {"keywords": value})
    assert new == front.text[: front.end] + f"keywords: {quote(value)}\n" + front.text[front.end :]
    document = read_document("f", new.encode(), SOURCE)
    assert document is not None and document.keywords == value


def test_keys_that_are_indented() -> None:
    """A block ends where the next key begins, wherever the keys stand."""
    text = "---\n  keywords: |\n    a\n\n    b\n\n  title: T\n---\n"
    front = read_front_matter("f", text.encode())
    assert front is not None
    assert edit(front, {"keywords": "x"}) == '---\n  keywords: "x"\n\n  title: T\n---\n'
    assert edit(front, {"keywords": None}) == "---\n\n  title: T\n---\n"


@pytest.mark.parametrize("style", STYLES)
def test_a_key_that_goes(style: str) -> None:
    """It goes with its lines, and the comments around it stay."""
    front = read_front_matter("f", make(STYLES[style]))
    assert front is not None
    assert edit(front, {"keywords": None}).encode() == make("%").replace(b"%\n", b"")


@given(links=st.lists(st.fixed_dictionaries({"title": TEXTS, "url": TEXTS}), max_size=3))
@pytest.mark.parametrize(
    "line",
    ["links: []", "links:\n  - title: a\n    url: b\n", "links:\n- {title: a, url: b}", "z: 1"],
)
def test_links(line: str, links: list[dict[str, str]]) -> None:
    """A list in a flow or a block stays one."""
    data = make(line)
    says = read_document("f", data, SOURCE)
    assert says is not None
    cells = says.cells() | {"links": json.dumps(links)}
    new = write_document("f", data, SOURCE, cells, {"links": cells["links"]})
    document = read_document("f", new, SOURCE)
    assert document is not None and json.loads(document.links) == links
    assert b"# between\npublished_at: 2026-02-18 # day\n" in new


@given(TEXTS, TEXTS, TEXTS, st.booleans())
def test_a_document_without_a_file(title: str, body: str, image: str, public: bool) -> None:
    """What is written for a row says what the row says, if a file can."""
    cells = {
        "title": title, "description": "", "body": body, "author": "A", "keywords": title,
        "published_at": "2026-02-18 10:00:00+00", "kind": "guide", "image": image,
        "category_id": "cat", "public": public, "links": "[]",
    }  # fmt: skip
    try:
        data = new_document("f", SOURCE, "a/b", "en", cells)
    except NotHeld:
        assert not title.strip()  # a title that is blank is none
        return
    document = read_document("f", data, SOURCE)
    assert document is not None
    assert (document.title, document.image, document.public) == (title, image, public)
    assert content_hash(document.cells()) == content_hash(cells)


@pytest.mark.parametrize(
    "data",
    [b"", b"\n---\na: b\n---\n", b"----\n", b"text", b" ---\n---\n", b"\xef\xbb\xbf", b"- - -\n"],
)
def test_what_is_no_front_matter(data: bytes) -> None:
    """Such a file is no document, and no problem."""
    assert read_front_matter("f", data) is None


@pytest.mark.parametrize("opener", [b"---", b"---  ", b"---\r", b"\xef\xbb\xbf---"])
def test_openers(opener: bytes) -> None:
    """A byte order mark, blanks behind it and CRLF are all right."""
    front = read_front_matter("f", opener + b"\ntitle: T\n---\nbody")
    assert front is not None and front.body == "body" and list(front.keys) == ["title"]
    empty = read_front_matter("f", opener + b"\n---")
    assert empty is not None and not empty.keys and empty.body == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: T", "not closed"),
        ("- a\n---", "a line for each key"),
        ("{title: T}\n---", "a line for each key"),
        ("a: b: c\n---", "not YAML"),
        ("a: *x\n---", "not YAML"),
        ("a: 1\na: 2\n---", "stands twice"),
        ("? [x]\n: 1\n---", "no text"),
    ],
)
def test_what_cannot_be_read(text: str, said: str) -> None:
    """It is named with its place."""
    with pytest.raises(BadFile, match=said) as caught:
        read_front_matter("f.md", f"---\n{text}\n".encode())
    assert caught.value.problems[0].path == "f.md"


def test_all_problems_at_once() -> None:
    """Each with its own line."""
    data = b"---\ntitle: 5\nslug: A B\npublic: x\nlinks: 3\nkind: guide\n---\n"
    with pytest.raises(BadFile) as caught:
        read_document("f.md", data, SOURCE)
    found = [(problem.line, problem.message.partition(":")[0]) for problem in caught.value.problems]
    assert found == [
        (3, "slug"), (2, "title"), (2, "author is missing"), (2, "published_at is missing"),
        (4, "public"), (5, "links"),
    ]  # fmt: skip


def test_hashes() -> None:
    """The older one joins texts as they are; ours keeps columns apart."""
    document = read_document("f", make("keywords: k"), SOURCE)
    assert document is not None
    cells = document.cells()
    assert version_hash(cells) == version_hash(cells | {"keywords": "other"})
    moved = cells | {"title": "TB", "body": "ody"}
    assert version_hash(moved) == version_hash(cells)  # the older system's fault, kept
    assert len({content_hash(c) for c in (cells, moved, cells | {"keywords": "other"})}) == 3
    assert content_hash(cells) == content_hash(cells | {"body": "\r\nBody \n", "links": " []"})


@pytest.mark.parametrize("slug", ["../x", "/x", "a//b", "A", "a b", "x/..", "é"])
def test_slugs_that_are_no_path(slug: str) -> None:
    """No file is written for them."""
    with pytest.raises(NotHeld):
        default_path(SOURCE, slug, "en")


SOURCES = """
content_sources:
  b: {path: content/b, source_id: b, enabled: false}
  skills: {path: skills, source_id: s, allowed_content_types: [skill]}
  a:
    path: content/a/
    source_id: a-id
    allowed_content_types: [x, y]
    indexing: {recursive: false}
"""


def test_sources() -> None:
    """Those that are enabled and hold documents; paths begin above the file's directory."""
    (found,) = parse_sources("services/content/config.yaml", SOURCES.encode())
    assert found == Source("a", "a-id", "services/content/a", None, ("x", "y"), False)
    assert found.holds("services/content/a/x.md")
    assert not found.holds("services/content/a/b/x.md")
    assert not found.holds("services/content/ab.md")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML"),
        ("a: 1", "content_sources"),
        ("content_sources: {a: 1}", "expected a map"),
        ("content_sources: {a: {path: x}}", "source_id is missing"),
        ("content_sources: {a: {source_id: x}}", "path is missing"),
        ("content_sources: {a: {source_id: x, path: ../y}}", "below the services"),
        ("content_sources: {a: {source_id: x, path: /y}}", "below the services"),
        ("content_sources: {a: {source_id: x, path: y, enabled: 1}}", "true or false"),
        ("content_sources: {a: {source_id: x, path: y}, b: {source_id: x, path: z}}", "both"),
        ("content_sources: {a: {source_id: x, path: y}, b: {source_id: z, path: y/q}}", "lies in"),
    ],
)
def test_sources_that_are_none(text: str, said: str) -> None:
    """Each says what is wrong."""
    with pytest.raises(Invalid, match=said):
        parse_sources("content/config.yaml", text.encode())
