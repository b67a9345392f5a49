"""The older system's names for local syncs: its checks that still hold, and those that ought to."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support_cli import write
from support_local import Side, make_local

from gsync.compat import (
    AccessControlLocalSync,
    AccessControlSyncJob,
    ContentDiffCalculator,
    ContentDiffEntry,
    ContentDiffItem,
    ContentDiffResult,
    ContentLocalSync,
    ContentSyncJob,
    DiffStatus,
    DiskContent,
    InvalidInput,
    LocalSyncDirection,
    LocalSyncResult,
    MissingConfig,
    compute_content_hash,
    escape_yaml,
    export_content_to_file,
    generate_content_markdown,
)
from gsync.errors import Conflict, NotFound

CONFIG = b"""content_sources:
  docs: {path: content/docs, source_id: docs, enabled: true, allowed_content_types: [guide]}
"""
ROW = {
    "slug": "s", "title": 'A "q" \\', "author": "A", "published_at": "2026-02-18 10:00:00+00",
    "kind": "guide", "body": "Body", "description": "two\nlines",
}  # fmt: skip


def doc(slug: str, title: str = "T", kind: str = "guide") -> bytes:
    return (
        f'---\ntitle: "{title}"\nslug: "{slug}"\nauthor: "A"\nkind: "{kind}"\n'
        'published_at: "2026-02-18"\n---\n\nText\n'
    ).encode()


@pytest.fixture
def folder(tmp_path: Path, side: Side) -> Path:
    files = {"content/config.yaml": CONFIG, "content/docs/a.md": doc("a")}
    return make_local(tmp_path / "a", side.url, files)


def insert(side: Side, slug: str, title: str = "Row") -> None:
    side.run(
        "INSERT INTO markdown_content (slug, source_id, title, description, body, author,"
        " published_at, keywords, kind, version_hash) VALUES"
        " (?, 'docs', ?, '', 'Text', 'A', '2026-02-18 00:00:00+00', '', 'guide', 'x')",
        *(slug, title),
    )


def test_the_older_hash() -> None:
    """64 lower hex digits of title, then body; nothing keeps them apart."""
    found = compute_content_hash("body", "title")
    assert found == hashlib.sha256(b"titlebody").hexdigest() and len(found) == 64
    assert found == compute_content_hash("body", "title")
    assert len({compute_content_hash(*p) for p in (("a", "b"), ("b", "a"), ("a ", "b"))}) == 3
    assert compute_content_hash("c", "ab") == compute_content_hash("bc", "a")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("", ""), ('a"b', 'a\\"b'), ("a\\b", "a\\\\b"), ("a\nb", "a\\nb"), ("é\t", "é\t"),
     ('\\"\n', '\\\\\\"\\n')],
)  # fmt: skip
def test_escapes(text: str, escaped: str) -> None:
    """A backslash first, then quotes and line ends; nothing else."""
    assert escape_yaml(text) == escaped


def test_markdown_of_a_row(tmp_path: Path) -> None:
    """In the older layout, and readable; what is absent is no empty text."""
    made = generate_content_markdown(ROW)
    assert made.startswith('---\ntitle: "A \\"q\\" \\\\"\ndescription: "two\\nlines"\n')
    assert "image" not in made and made.endswith("---\n\nBody\n")
    found = DiskContent.read("s.md", made.encode())
    assert found == DiskContent("s", 'A "q" \\', "Body", "guide")
    assert DiskContent.read("s.md", made.encode(), ["page"]) is None
    with pytest.raises(InvalidInput, match="x.md:3"):
        DiskContent.read("x.md", made.replace('description: "', "description: 5 #").encode())
    with pytest.raises(InvalidInput, match="published_at"):
        generate_content_markdown({k: v for k, v in ROW.items() if k != "published_at"})


def test_files_of_rows(tmp_path: Path) -> None:
    """Where they go, and that nothing is written over, nor outside."""
    assert export_content_to_file(ROW, tmp_path, "blog") == tmp_path / "s/index.md"
    assert export_content_to_file(ROW, tmp_path, "docs") == tmp_path / "s.md"
    assert export_content_to_file(ROW, tmp_path, "docs") == tmp_path / "s.md"
    empty = export_content_to_file(ROW | {"slug": ""}, tmp_path, "docs")
    assert empty == tmp_path / "index.md" and empty.read_text().startswith("---\n")
    (tmp_path / "s.md").write_text("mine")
    with pytest.raises(Conflict):
        export_content_to_file(ROW, tmp_path, "docs")
    assert (tmp_path / "s.md").read_text() == "mine"
    with pytest.raises(InvalidInput):
        export_content_to_file(ROW | {"slug": "../s"}, tmp_path, "docs")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.md", "s", "s.md"]


def test_what_differs(folder: Path, side: Side) -> None:
    """One of each: on disk alone, in the database alone, in both otherwise, alike."""
    ContentLocalSync(folder).sync_to_db()
    write(folder, {
        "content/docs/new.md": doc("new"), "content/docs/both.md": doc("both", "disk"),
        "content/docs/page.md": doc("page", kind="page"), "content/docs/x.txt": doc("x"),
        "content/docs/plain.md": b"no front matter",
    })  # fmt: skip
    insert(side, "gone")
    insert(side, "both")
    found = ContentDiffCalculator(folder).calculate_diff("docs")
    assert type(found) is ContentDiffResult
    assert found.has_changes and found.unchanged == 1
    (added,), (removed,), (modified,) = found.added, found.removed, found.modified
    assert (added.slug, added.title, added.db_hash) == ("new", "T", None) and added.disk_hash
    assert (removed.slug, removed.disk_hash) == ("gone", None) and removed.db_hash
    assert type(modified) is ContentDiffItem
    assert modified.status is DiffStatus.MODIFIED
    assert modified.disk_hash != modified.db_hash
    shown = found.to_json()
    assert list(shown) == ["source_id", "added", "removed", "modified", "unchanged"]
    assert shown["added"][0]["status"] == "Added"
    with pytest.raises(InvalidInput):
        ContentDiffCalculator(folder).calculate_diff("nothing")
    entry = ContentDiffEntry("docs", "docs", None, "content/docs", ("guide",), found)
    assert entry.diff.added == (added,)


def test_syncs(folder: Path, side: Side) -> None:
    """Counts are of what was written; orphans go only where they are meant."""
    insert(side, "row")
    found = ContentLocalSync(folder).sync_to_db()
    assert found == LocalSyncResult(1, 1, 0, 0, (), LocalSyncDirection.TO_DATABASE)
    assert found.to_json()["direction"] == "to_database"
    assert ContentLocalSync(folder, ["docs"]).sync_to_db(delete_orphans=True).items_deleted == 1
    insert(side, "row")
    assert ContentLocalSync(folder).sync_to_disk().items_synced == 1
    assert (folder / "content/docs/row.md").exists()
    write(folder, {"content/docs/a.md": doc("a", "disk")})
    side.run("UPDATE markdown_content SET title = 'row' WHERE slug = 'a'")
    stuck = ContentLocalSync(folder).sync_to_db()
    assert stuck.items_skipped_modified == 1 and "conflict" in stuck.errors[0]
    assert ContentLocalSync(folder).sync_to_db(override_existing=True).items_synced == 1
    assert LocalSyncResult().direction is LocalSyncDirection.TO_DISK


def test_rules(folder: Path, side: Side) -> None:
    """A file that is not there, one that is wrong, an empty one, and one that says something."""
    with pytest.raises(MissingConfig, match="roles.yaml"):
        AccessControlLocalSync(folder).sync_to_db()
    write(folder, {"access-control/roles.yaml": b"rules: 5\n"})
    with pytest.raises(InvalidInput, match="expected a list"):
        AccessControlLocalSync(folder).sync_to_db()
    write(folder, {"access-control/roles.yaml": b""})
    assert AccessControlLocalSync(folder).sync_to_db(True, True) == LocalSyncResult(
        direction=LocalSyncDirection.TO_DATABASE
    )
    rules = b"rules:\n  - {entity_type: skill, entity_id: a, roles: [x, y]}\n"
    write(folder, {"other.yaml": rules})
    assert AccessControlLocalSync(folder, "other.yaml").sync_to_db().items_synced == 2
    assert AccessControlLocalSync(folder, "other.yaml").sync_to_db().items_synced == 0


def test_jobs(folder: Path, side: Side) -> None:
    """Names, tags and defaults; what is wrong is named; an item that fails is a failure."""
    content, rules = ContentSyncJob(), AccessControlSyncJob()
    assert (content.name, content.schedule, content.enabled) == ("content_sync", "", False)
    assert (content.tags, rules.tags) == (
        ("content", "sync"), ("access-control", "sync", "bootstrap"),
    )  # fmt: skip
    done = content.execute(folder)
    assert done.success and (done.items_processed, done.items_failed) == (1, 0)
    again = content.execute(folder, {"direction": "to-db"})
    assert again.success and again.message == "there is nothing to do"
    insert(side, "row")
    assert content.execute(folder, {"direction": "disk"}).items_processed == 1
    with pytest.raises(InvalidInput, match="sideways"):
        content.execute(folder, {"direction": "sideways"})
    with pytest.raises(InvalidInput, match="no such parameter"):
        content.execute(folder, {"yaml_path": "x"})
    with pytest.raises(InvalidInput, match="true or false"):
        rules.execute(folder, {"delete_orphans": "perhaps"})
    with pytest.raises(MissingConfig):
        rules.execute(folder, {"yaml_path": "nowhere.yaml"})
    write(folder, {"content/docs/bad.md": doc("Bad Slug")})
    bad = content.execute(folder)
    assert not bad.success and bad.items_failed == 1 and "Bad Slug" in (bad.message or "")


def test_jobs_without_anything_to_do(folder: Path, side: Side) -> None:
    """Sources that are all switched off are no failure; a wrong or absent list of them is."""
    write(folder, {"content/config.yaml": CONFIG.replace(b"enabled: true", b"enabled: false")})
    done = ContentSyncJob().execute(folder)
    assert done.success and done.message == "there is nothing to do"
    write(folder, {"content/config.yaml": b"content_sources: ["})
    with pytest.raises(InvalidInput, match="not YAML"):
        ContentSyncJob().execute(folder)
    write(folder, {"content/config.yaml": b"other: 1"})
    with pytest.raises(InvalidInput, match="content_sources"):
        ContentSyncJob().execute(folder)
    (folder / "content/config.yaml").unlink()
    with pytest.raises(NotFound, match="looked for"):
        ContentSyncJob().execute(folder)
    with pytest.raises(NotFound, match="repository"):
        ContentSyncJob().execute(folder.parent)
