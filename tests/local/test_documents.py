"""Documents on disk and in a live database: both ways, with edits on either side."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support_cli import gsync_in, json_in, read_tree, refused, start, write
from support_local import Side, done, local, make_local, make_sqlite

SERVICES = Path(__file__).parent.parent.parent / "../shared/data/services-sample/services"
CONFIG = b"""content_sources:
  blog:
    path: content/blog
    source_id: blog
    category_id: news
    enabled: true
    allowed_content_types: [blog]
  docs:
    path: content/docs
    source_id: documentation
    category_id: docs
    enabled: true
    allowed_content_types: [guide, reference]
  off:
    path: content/off
    source_id: off
    enabled: false
    allowed_content_types: [guide]
"""


def doc(
    slug: str, *lines: str, kind: str = "guide", body: str = "Text.\n", title: str = "T"
) -> bytes:
    head = [f'title: "{title}"', 'author: "A"', f'slug: "{slug}"', f'kind: "{kind}"']
    return "\n".join(["---", *head, 'published_at: "2026-02-18"', *lines, "---", "", body]).encode()


def set_cell(side: Side, slug: str, column: str, value: Any) -> None:
    side.run(f"UPDATE markdown_content SET {column} = ? WHERE slug = ?", value, slug)


def get(side: Side, slug: str, columns: str) -> Any:
    found = side.run(f"SELECT {columns} FROM markdown_content WHERE slug = ?", slug)
    return found[0] if found else None


def insert(side: Side, slug: str, source: str = "documentation", **more: Any) -> None:
    cells = {
        "slug": slug, "source_id": source, "title": "Row", "description": "",
        "body": "From a row.", "author": "B", "keywords": "",
        "published_at": "2026-03-01 10:30:00+00",
        "kind": "guide", "version_hash": "x", **more,
    }  # fmt: skip
    marks = ", ".join("?" * len(cells))
    side.run(f"INSERT INTO markdown_content ({', '.join(cells)}) VALUES ({marks})", *cells.values())


def list_slugs(side: Side) -> list[str]:
    return [row[0] for row in side.run("SELECT slug FROM markdown_content ORDER BY slug")]


def make(tmp_path: Path, side: Side, files: dict[str, bytes], *, config: bytes = CONFIG) -> Path:
    return make_local(tmp_path / "a", side.url, {"content/config.yaml": config, **files})


def test_there_and_back(tmp_path: Path, side: Side) -> None:
    """To the database, then to disk, is the identity; then nothing differs, and nothing is done."""
    files = {
        "content/docs/a.md": doc("a", "# a comment", "unknown: [1, 2]  # kept", "image: /i.png"),
        "content/docs/deep/b.md": doc("x/b").replace(b"\n", b"\r\n"),
        "content/docs/index.md": "\ufeff".encode() + doc("", "links:\n- {title: t, url: u}"),
        "content/blog/c/index.md": doc("c", "category: 'other'", "public: false", kind="blog"),
        "content/docs/de.md": doc("a", "locale: de", "keywords: eins, zwei"),
        "content/docs/no-end.md": doc("no-end", body="no line end"),
        "content/docs/README.md": b"No front matter.\n",
        "content/docs/other.md": doc("other", kind="page"),
        "content/off/z.md": doc("z"),
    }
    folder = make(tmp_path, side, files)
    assert done(local(folder, "to-db")) == (6, 0, 0, 0, 0)
    assert list_slugs(side) == ["", "a", "a", "c", "no-end", "x/b"]
    before = read_tree(folder / "content")
    for command in ("to-disk", "to-db", "merge"):
        assert done(local(folder, command)) == (0, 0, 0, 0, 0)
    assert read_tree(folder / "content") == before
    assert local(folder, "diff")["items"] == []
    assert get(side, "c", "category_id, source_id") == ("other", "blog")
    assert get(side, "x/b", "body, category_id, image") == ("Text.", "docs", None)
    assert [bool(public) for public in get(side, "c", "public")] == [False]
    links = get(side, "", "links")[0]
    assert re.sub(r"[\s'\"]", "", str(links)) in ("[{title:t,url:u}]", "[{url:u,title:t}]")
    assert json_in(folder, "status")["changes"] == []


def test_the_hash_of_the_older_system_is_kept(tmp_path: Path, side: Side) -> None:
    """So its own ingestion takes what we wrote for unchanged."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a", 'description: "D"', body="B\n")})
    local(folder, "to-db")
    joined = "T" + "B" + "D" + "A" + "2026-02-18 00:00:00 UTC" + "true"
    assert get(side, "a", "version_hash") == (hashlib.sha256(joined.encode()).hexdigest(),)
    set_cell(side, "a", "version_hash", "stale")
    assert local(folder, "diff")["items"] == []


EDITS: list[tuple[str, Any, bytes, bytes]] = [
    ("title", 'Say "x" \\ y', b'title: "T"', b'title: "Say \\"x\\" \\\\ y"'),
    ("author", "No", b'author: "A"', b'author: "No"'),
    ("keywords", "a, 'b'", b"keywords: 'k'  # why", b"keywords: 'a, ''b'''  # why"),
    ("keywords", "two\nlines", b"keywords: 'k'  # why", b'keywords: "two\\nlines"  # why'),
    ("image", "/new.png", b"image: /old.png", b"image: /new.png"),
    ("image", "yes", b"image: /old.png", b'image: "yes"'),
    ("image", None, b"image: /old.png\n", b""),
    ("description", "D: d # d", b"description: >-\n  folded\n  text\n",
     b'description: "D: d # d"\n'),
    ("public", False, b"public: true", b"public: false"),
    ("published_at", "2027-01-02 00:00:00+00", b'"2026-02-18"', b'"2027-01-02"'),
    ("category_id", "c", b"zzz: 1\n", b'zzz: 1\ncategory: "c"\n'),
    ("links", '[{"url": "u", "title": "t"}, {"title": "é", "url": "/"}]', b"links: []",
     'links: [{title: "t", url: "u"}, {title: "é", url: "/"}]'.encode()),
    ("body", "New\n\n  text", b"Text.", b"New\n\n  text"),
]  # fmt: skip


@pytest.mark.parametrize("eol", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_one_cell_is_one_line(tmp_path: Path, side: Side, eol: bytes) -> None:
    """What changed in a row changes in the file, and no other byte of it."""
    lines = (
        "# about", "keywords: 'k'  # why", "image: /old.png", "description: >-\n  folded\n  text",
        "public: true", "links: []", "zzz: 1",
    )  # fmt: skip
    files = {
        f"content/docs/{n}.md": doc(f"d{n}", *lines).replace(b"\n", eol) for n in range(len(EDITS))
    }
    folder = make(tmp_path, side, files)
    local(folder, "to-db")
    for n, (column, value, _, _) in enumerate(EDITS):
        set_cell(side, f"d{n}", column, value)
    found = local(folder, "to-disk")
    assert done(found) == (len(EDITS), 0, 0, 0, 0)
    for n, (_, _, old, new) in enumerate(EDITS):
        path = f"content/docs/{n}.md"
        expected = files[path].replace(old.replace(b"\n", eol), new.replace(b"\n", eol), 1)
        assert (folder / path).read_bytes() == expected
    assert local(folder, "diff")["items"] == []


def test_each_way_lets_its_own_changes_through(tmp_path: Path, side: Side) -> None:
    """What changed on the other side alone waits, and is a change still; merge takes both."""
    folder = make(tmp_path, side, {f"content/docs/{slug}.md": doc(slug) for slug in "abcdef"})
    local(folder, "to-db")
    write(folder, {"content/docs/a.md": doc("a", title="file"), "content/docs/n.md": doc("n")})
    (folder / "content/docs/b.md").unlink()
    set_cell(side, "c", "title", "row")
    side.run("DELETE FROM markdown_content WHERE slug = 'd'")
    insert(side, "m")
    assert done(local(folder, "to-db", "--dry-run")) == (2, 2, 1, 1, 0)
    assert list_slugs(side) == ["a", "b", "c", "e", "f", "m"]
    assert done(local(folder, "to-db")) == (2, 2, 1, 1, 0)
    assert list_slugs(side) == ["a", "c", "e", "f", "m", "n"]
    assert get(side, "a", "title") == ("file",) and get(side, "c", "title") == ("row",)
    assert (folder / "content/docs/d.md").exists()
    assert done(local(folder, "merge")) == (2, 0, 0, 1, 0)
    assert b'title: "row"' in (folder / "content/docs/c.md").read_bytes()
    assert not (folder / "content/docs/d.md").exists()
    made = (folder / "content/docs/m.md").read_bytes()
    assert made.startswith(b'---\ntitle: "Row"\n') and made.endswith(b"---\n\nFrom a row.\n")
    assert get(side, "m", "published_at")[0] != get(side, "a", "published_at")[0]
    assert local(folder, "diff")["items"] == []


def test_both_sides_of_one_document(tmp_path: Path, side: Side) -> None:
    """Other keys merge, and other lines of the body; one key twice is a conflict."""
    body = "".join(f"line {n}\n" for n in range(20))
    folder = make(
        tmp_path,
        side,
        {f"content/docs/{slug}.md": doc(slug, body=body) for slug in ("keys", "lines", "clash")},
    )
    local(folder, "to-db")
    write(folder, {
        "content/docs/keys.md": doc("keys", body=body, title="file"),
        "content/docs/lines.md": doc("lines", body=body.replace("line 2\n", "file 2\n")),
        "content/docs/clash.md": doc("clash", body=body, title="file"),
    })  # fmt: skip
    set_cell(side, "keys", "keywords", "row")
    set_cell(side, "lines", "body", body.strip().replace("line 17\n", "row 17\n"))
    set_cell(side, "clash", "title", "row")
    found = local(folder, "merge", code=1)
    assert done(found) == (2, 0, 1, 0, 1)
    assert "conflict" in found["errors"][0]
    assert get(side, "keys", "title, keywords") == ("file", "row")
    assert b'keywords: "row"' in (folder / "content/docs/keys.md").read_bytes()
    merged = body.replace("line 2\n", "file 2\n").replace("line 17\n", "row 17\n")
    assert (folder / "content/docs/lines.md").read_bytes() == doc("lines", body=merged)
    assert get(side, "lines", "body") == (merged.strip(),)
    (item,) = local(folder, "diff")["items"]
    assert (item["slug"], item["conflict"], item["columns"]) == ("clash", "edit/edit", ["title"])
    assert get(side, "clash", "title") == ("row",)
    assert done(local(folder, "merge", "--override", "ours")) == (1, 0, 0, 0, 0)
    assert get(side, "clash", "title") == ("file",)


def test_both_sides_one_way_at_a_time(tmp_path: Path, side: Side) -> None:
    """To the database first: it has both edits, and the file gets the row's with to-disk."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a")})
    local(folder, "to-db")
    write(folder, {"content/docs/a.md": doc("a", title="file")})
    set_cell(side, "a", "keywords", "row")
    assert done(local(folder, "to-db")) == (1, 0, 0, 0, 0)
    assert get(side, "a", "title, keywords") == ("file", "row")
    assert (folder / "content/docs/a.md").read_bytes() == doc("a", title="file")
    assert done(local(folder, "to-db")) == (0, 0, 1, 0, 0)
    assert done(local(folder, "to-disk")) == (1, 0, 0, 0, 0)
    assert (folder / "content/docs/a.md").read_bytes() == doc("a", 'keywords: "row"', title="file")


@pytest.mark.parametrize("there", ["row edited", "file edited"])
def test_a_deletion_against_an_edit(tmp_path: Path, side: Side, there: str) -> None:
    """It is a conflict, and both stay; an override says which."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    local(folder, "to-db")
    if there == "row edited":
        (folder / "content/docs/a.md").unlink()
        set_cell(side, "a", "title", "row")
    else:
        side.run("DELETE FROM markdown_content WHERE slug = 'a'")
        write(folder, {"content/docs/a.md": doc("a", title="file")})
    for command in ("to-db", "to-disk", "merge"):
        found = local(folder, command, code=1)
        assert found["items"][0]["conflict"] in ("delete/edit", "edit/delete")
    if there == "row edited":
        assert done(local(folder, "to-disk", "--override", "theirs")) == (1, 0, 0, 0, 0)
        assert b'"row"' in (folder / "content/docs/a.md").read_bytes()
    else:
        assert done(local(folder, "to-disk", "--override", "theirs")) == (0, 0, 0, 1, 0)
        assert not (folder / "content/docs/a.md").exists()
    assert local(folder, "diff")["items"] == []


def test_first_contact(tmp_path: Path, side: Side) -> None:
    """What is alike is agreed on; what is not is a conflict until somebody says whose it is."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    same: dict[str, Any] = {"title": "T", "author": "A", "body": "Text.\n", "category_id": None}
    insert(side, "a", **same, published_at="2026-02-18 08:00:00+00")
    insert(side, "b", **same | {"title": "row"}, published_at="2026-02-18 00:00:00+00")
    found = local(folder, "merge", code=1)
    assert [(i["slug"], i["conflict"]) for i in found["items"]] == [("b", "add/add")]
    write(folder, {"content/docs/a.md": doc("a", title="file")})
    assert [i["slug"] for i in local(folder, "to-db", code=1)["items"]] == ["a", "b"]
    assert get(side, "a", "title, body") == ("file", "Text.\n")
    assert done(local(folder, "to-db", "--override", "ours")) == (1, 0, 0, 0, 0)
    assert get(side, "b", "title") == ("T",)


def test_orphans(tmp_path: Path, side: Side) -> None:
    """What the other side never had goes only where somebody says so."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a")})
    insert(side, "r")
    assert done(local(folder, "to-db")) == (1, 1, 0, 0, 0)
    assert done(local(folder, "to-db", "--delete-orphans")) == (0, 0, 0, 1, 0)
    assert list_slugs(side) == ["a"]
    write(folder, {"content/docs/f.md": doc("f"), "content/docs/x.txt": b"stays"})
    assert done(local(folder, "to-disk")) == (0, 1, 0, 0, 0)
    assert done(local(folder, "to-disk", "--delete-orphans")) == (0, 0, 0, 1, 0)
    assert sorted(os.listdir(folder / "content/docs")) == ["a.md", "x.txt"]


BAD = {
    "title: [": "YAML",
    'title: "a"\ntitle: "b"': "twice",
    "title: 5": "quote it",
    "slug: ../up": "slug",
    "slug: a//b": "slug",
    "published_at: 2026-02-30": "2026-02-30",
    "published_at: yesterday": "YYYY-MM-DD",
    "public: perhaps": "true or false",
    "links: {a: b}": "links",
    "author: ' '": "blank",
    "title: &x y": "anchor",
    'title: "a\\0b"': "NUL",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_document_is_no_deletion(tmp_path: Path, side: Side, line: str) -> None:
    """It is named with its line; its row stays; the others go on."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    local(folder, "to-db")
    key = line.partition(":")[0]
    kept = [ln for ln in doc("a").decode().split("\n") if not ln.startswith(f"{key}:")]
    bad = "\n".join([kept[0], line, *kept[1:]])
    write(folder, {"content/docs/a.md": bad.encode(), "content/docs/b.md": doc("b", title="new")})
    found = local(folder, "to-db", "--delete-orphans", code=1)
    assert found["problems"][0]["path"] == "content/docs/a.md"
    assert found["problems"][0]["line"] in (2, 3, 4)
    assert BAD[line] in found["problems"][0]["message"]
    assert get(side, "a", "title") == ("T",) and get(side, "b", "title") == ("new",)
    write(folder, {"content/docs/a.md": doc("a", title="well")})
    assert done(local(folder, "to-db")) == (1, 0, 0, 0, 0)
    assert get(side, "a", "title") == ("well",)


def test_a_bad_document_under_a_new_name(tmp_path: Path, side: Side) -> None:
    """Nobody knows whose row it would be, so its source loses none."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    local(folder, "to-db")
    (folder / "content/docs/a.md").rename(folder / "content/docs/moved.md")
    write(folder, {"content/docs/moved.md": doc("a", "public: x")})
    found = local(folder, "to-db", code=1)
    assert list_slugs(side) == ["a", "b"] and found["items"][0]["problem"]
    write(folder, {"content/docs/moved.md": doc("a", "public: false")})
    assert done(local(folder, "to-db")) == (1, 0, 0, 0, 0)


def test_a_folder_that_is_gone(tmp_path: Path, side: Side) -> None:
    """A source without any file deletes nothing, whatever is asked for."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a")})
    local(folder, "to-db")
    (folder / "content/docs/a.md").unlink()
    for more in ((), ("--delete-orphans",)):
        found = local(folder, "to-db", *more, code=1)
        assert "no file at all" in found["errors"][0]
    assert list_slugs(side) == ["a"]


def test_two_files_of_one_slug(tmp_path: Path, side: Side) -> None:
    """Both are problems that name each other, and the row stays as it is."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    local(folder, "to-db")
    write(folder, {"content/docs/copy.md": doc("a", title="copy")})
    found = local(folder, "to-db", code=1)
    assert [p["path"] for p in found["problems"]] == ["content/docs/a.md", "content/docs/copy.md"]
    assert "content/docs/copy.md has the slug 'a'" in found["problems"][0]["message"]
    assert get(side, "a", "title") == ("T",)


def test_a_renamed_document(tmp_path: Path, side: Side) -> None:
    """Another path is nothing; another slug is another document."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    local(folder, "to-db")
    (folder / "content/docs/deep").mkdir()
    (folder / "content/docs/a.md").rename(folder / "content/docs/deep/z.md")
    assert done(local(folder, "to-db")) == (0, 0, 0, 0, 0)
    set_cell(side, "a", "title", "row")
    assert done(local(folder, "to-disk")) == (1, 0, 0, 0, 0)
    assert b'"row"' in (folder / "content/docs/deep/z.md").read_bytes()
    write(folder, {"content/docs/deep/z.md": doc("new", title="row")})
    assert done(local(folder, "to-db")) == (1, 0, 0, 1, 0)
    assert list_slugs(side) == ["b", "new"]


def test_a_slug_of_another_source(tmp_path: Path, side: Side) -> None:
    """It is never taken over; a document that moves from one source to the other may."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    insert(side, "a", "elsewhere")
    found = local(folder, "to-db", code=1)
    assert "elsewhere" in found["errors"][0]
    assert get(side, "a", "source_id") == ("elsewhere",) and get(side, "b", "title") == ("T",)
    (folder / "content/docs/b.md").unlink()
    write(folder, {"content/blog/b/index.md": doc("b", kind="blog")})
    found = local(folder, "to-db", code=1)
    assert get(side, "b", "source_id") == ("blog",)


def test_rows_that_no_file_can_hold(tmp_path: Path, side: Side) -> None:
    """Each is named and left alone; the others come."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b/x.md": doc("x")})
    local(folder, "to-db")
    insert(side, "../../up")
    insert(side, "ok")
    insert(side, "page", kind="page")
    insert(side, "b")
    insert(side, "linked", links='{"a": 1}')
    insert(side, "more", links='[{"title": "t", "url": "u", "icon": "i"}]')
    write(folder, {"content/docs/taken.md": b"mine"})
    insert(side, "taken")
    found = local(folder, "to-disk", code=1)
    left = {item["slug"] for item in found["items"] if item["problem"]}
    assert left == {"../../up", "page", "linked", "more", "taken"}
    assert (folder / "content/docs/taken.md").read_bytes() == b"mine"
    assert (folder / "content/docs/ok.md").exists() and (folder / "content/docs/b.md").exists()
    assert not (tmp_path / "up.md").exists()


def test_where_new_files_go(tmp_path: Path, side: Side) -> None:
    """The older layout, and the locale in the name."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/blog/x.md": b"-"})
    local(folder, "to-db")
    insert(side, "post", "blog", kind="blog")
    insert(side, "", "documentation", locale="pt-BR", title='q"\\', image="", keywords="k")
    insert(side, "p/q", links='[{"title": "t", "url": "u"}]', public=False)
    assert done(local(folder, "to-disk")) == (3, 0, 0, 0, 0)
    assert (folder / "content/blog/post/index.md").exists()
    text = (folder / "content/docs/index.pt-BR.md").read_text()
    assert text == (
        '---\ntitle: "q\\"\\\\"\nauthor: "B"\nslug: ""\nkeywords: "k"\nkind: "guide"\n'
        'locale: "pt-BR"\npublic: true\npublished_at: "2026-03-01"\n---\n\nFrom a row.\n'
    )
    assert 'links:\n  - title: "t"\n    url: "u"\n' in (folder / "content/docs/p/q.md").read_text()
    assert local(folder, "diff")["items"] == []


def test_undo(tmp_path: Path, side: Side) -> None:
    """It takes back rows and files, and what counts as agreed on."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    local(folder, "to-db")
    write(folder, {"content/docs/a.md": doc("a", title="file")})
    set_cell(side, "b", "title", "row")
    local(folder, "merge")
    gsync_in(folder, "undo")
    assert get(side, "a", "title") == ("T",)
    assert (folder / "content/docs/b.md").read_bytes() == doc("b")
    assert (folder / "content/docs/a.md").read_bytes() == doc("a", title="file")
    assert done(local(folder, "merge")) == (2, 0, 0, 0, 0)
    assert get(side, "a", "title") == ("file",)


def test_two_machines(tmp_path: Path, side: Side) -> None:
    """Each with its folder and database: what one of them merged is alike for the other."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    local(folder, "to-db")
    gsync_in(folder, "remote", "add", "origin", str(tmp_path / "store"))
    gsync_in(folder, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "store"), "other")
    other, there = tmp_path / "other", Side(make_sqlite(tmp_path / "other.db"))
    gsync_in(other, "db", "add", there.url, "--yes")
    gsync_in(other, "db", "restore", "HEAD")
    assert done(local(other, "merge")) == (0, 0, 0, 0, 0)
    set_cell(there, "a", "title", "there")
    write(other, {"content/docs/b.md": doc("b", title="there")})
    assert done(local(other, "merge")) == (2, 0, 0, 0, 0)
    gsync_in(other, "push")
    gsync_in(folder, "pull")
    assert get(side, "a", "title") == get(side, "b", "title") == ("there",)
    assert (folder / "content/docs/a.md").read_bytes() == doc("a", title="there")
    for command in ("diff", "merge", "to-db", "to-disk"):
        assert local(folder, command)["items"] == []
    write(folder, {"content/docs/a.md": doc("a", title="here")})
    set_cell(side, "b", "keywords", "here")
    assert done(local(folder, "merge")) == (2, 0, 0, 0, 0)


def test_the_base_outlives_a_collection(tmp_path: Path, side: Side) -> None:
    """What a local sync goes on from is named by something."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a"), "content/docs/b.md": doc("b")})
    local(folder, "to-db")
    gsync_in(folder, "gc")
    gsync_in(folder, "verify")
    set_cell(side, "a", "title", "row")
    (folder / "content/docs/b.md").unlink()
    assert done(local(folder, "merge")) == (1, 0, 0, 1, 0)


def test_what_cannot_be(tmp_path: Path, side: Side) -> None:
    """Each with what is wrong and what to do."""
    folder = make(tmp_path, side, {"content/docs/a.md": doc("a")})
    assert "no source" in refused(folder, "local", "to-db", "nothing", code=4)[0]
    write(folder, {"content/config.yaml": CONFIG.replace(b"content/docs", b"../docs")})
    assert "below the services" in refused(folder, "local", "to-db", code=2)[0]
    (folder / "content/config.yaml").unlink()
    assert "looked for" in refused(folder, "local", "to-db", code=4)[0]
    write(folder, {"content/config.yaml": CONFIG})
    one = local(folder, "to-db", "docs")
    assert [source["source_id"] for source in one["sources"]] == ["documentation"]


@pytest.mark.parametrize("command", ["to-db", "to-disk", "merge"])
def test_killed_in_the_middle(tmp_path: Path, side: Side, command: str) -> None:
    """Whenever it is killed, both sides are whole, and the next one ends where it would have."""
    slugs = [f"s{n}" for n in range(40)]
    folder = make(tmp_path, side, {f"content/docs/{slug}.md": doc(slug) for slug in slugs})
    local(folder, "to-db")
    rng = random.Random(command)
    for turn in range(4):
        edits = {f"content/docs/{slug}.md": doc(slug, title=f"f{turn}") for slug in slugs[:20]}
        if command != "to-disk":
            write(folder, edits)
        if command != "to-db":
            for slug in slugs[20:]:
                set_cell(side, slug, "title", f"r{turn}")
        process = start(folder, "local", command)
        time.sleep(rng.uniform(0.2, 1.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        local(folder, command)
        titles = {slug: get(side, slug, "title")[0] for slug in slugs}
        for n, slug in enumerate(slugs):
            text = (folder / f"content/docs/{slug}.md").read_bytes()
            assert f'title: "{titles[slug]}"'.encode() in text
            if n < 20 and command != "to-disk":
                assert titles[slug] == f"f{turn}"
            if n >= 20 and command != "to-db":
                assert titles[slug] == f"r{turn}"
        assert local(folder, "diff")["items"] == []
    gsync_in(folder, "verify")


@pytest.mark.skipif(not SERVICES.exists(), reason="there is no real tree beside the project")
def test_a_real_tree(tmp_path: Path, side: Side) -> None:
    """Its documents go into the database and back, and not a byte of it changes."""
    files = {
        path.relative_to(SERVICES).as_posix(): path.read_bytes()
        for path in (SERVICES / "content").rglob("*")
        if path.is_file()
    }
    config = files.pop("content/config.yaml")
    folder = make(tmp_path, side, files, config=config)
    found = local(folder, "to-db")
    assert done(found) == (14, 0, 0, 0, 0)
    before = read_tree(folder / "content")
    set_cell(side, "dashboard", "title", "Another")
    assert done(local(folder, "to-disk")) == (1, 0, 0, 0, 0)
    set_cell(side, "dashboard", "title", "Dashboard Usage")
    local(folder, "merge")
    after = read_tree(folder / "content")
    assert [path for path in before if before[path] != after[path]] in (
        [],
        [b"documentation/dashboard.md"],
    )
