"""Both configuration files and the environment (09-config)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gsync.config import (
    DatabaseConfig,
    InvalidConfig,
    Remote,
    TableConfig,
    environment,
    load_config,
    parse_local,
    parse_shared,
)
from gsync.configedit import (
    add_database,
    add_remote,
    append_shared,
    remove_remote,
    write_templates,
)
from gsync.errors import Conflict, Invalid, NotFound
from gsync.urls import (
    HttpUrl,
    PathUrl,
    check_remote_name,
    parse_database_url,
    parse_url,
)

HOSTILE = [
    ("a URL", 'home = "https://evil.example/x"'),
    ("a URL in a list", 'x = ["ok", "postgresql://h/db"]'),
    ("a URL as a key", '[x."http://h/t"]\ny = 1'),
    ("an ssh address", 'x = "git@host:repo"'),
    ("a setting called url", 'url = "x"'),
    ("a command", 'build.command = "rm -rf ~"'),
    ("a hook", '[hooks]\nafter = "x"'),
    ("remotes", '[remotes.origin]\nname = "x"'),
    ("a path up and out", 'include = ["../other"]'),
    ("a path up and out in the middle", 'include = ["a/../../b"]'),
    ("a path up and out with backslashes", "include = ['a\\..\\..\\b']"),
    ("an absolute path", 'include = ["/etc/passwd"]'),
    ("a path at home", 'include = ["~/.ssh"]'),
    ("a drive", 'include = ["C:/x"]'),
]


@pytest.mark.parametrize(("what", "text"), HOSTILE, ids=[what for what, _ in HOSTILE])
def test_shared_file_cannot_reach_out(what: str, text: str) -> None:
    """What could connect, run or leave the folder is refused for that reason."""
    with pytest.raises(InvalidConfig, match="tracked file|out of the folder"):
        parse_shared(f"version = 1\n{text}\n".encode())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version = 2", "newer"),
        ("version = true", "whole number"),
        ("version = ", "not TOML"),
        ("versoin = 1", "unknown setting versoin"),
    ],
)
def test_shared_file_rejects(text: str, says: str) -> None:
    """A mistake in gsync.toml is named."""
    with pytest.raises(InvalidConfig, match=says):
        parse_shared(text.encode())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("author = 1", "a table"),
        ('[author]\nemail = "x"', "not an address"),
        ('[author]\nname = "a\\nb"', "printable"),
        ('[remotes.origin]\ntoken_file = "x"', "has no url"),
        ('[remotes.main]\nurl = "https://h/t"', "ref's name"),
        ('[remotes.o]\nurl = "https://u:secret@h/t"', "must not hold a user"),
        ("[limits]\nstall_s = 0", "from 1"),
        ("[limit]\nstall_s = 1", "unknown setting limit"),
    ],
)
def test_local_file_rejects(text: str, says: str) -> None:
    """A mistake in .gsync/config.toml is named, and a password in it not repeated."""
    with pytest.raises(InvalidConfig, match=says) as caught:
        parse_local(text.encode())
    assert "secret" not in str(caught.value)


def test_unknown_setting_gets_a_guess() -> None:
    """A mistyped setting is answered with the one that was meant."""
    with pytest.raises(InvalidConfig) as caught:
        parse_local(b'[remotes.o]\nurl = "https://h/t"\ntoken_fiel = "x"')
    assert caught.value.hint == "did you mean remotes.o.token_file?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://Example.org:443/team/", HttpUrl("https://example.org", "team")),
        ("http://127.0.0.1:8080/t", HttpUrl("http://127.0.0.1:8080", "t")),
        ("http://[::1]:1/t", HttpUrl("http://[::1]:1", "t")),
        ("file:///srv/a%20b", PathUrl("/srv/a b")),
        ("../other", PathUrl("../other")),
    ],
)
def test_urls_accepted(text: str, expected: HttpUrl | PathUrl) -> None:
    """Each kind of URL is read, and written in one way."""
    assert parse_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://h",
        "https://h/a/b",
        "https://h/api",
        "https://h/Team",
        "https://h/t?token=x",
        "https://u@h/t",
        "https://h:99999/t",
        "http://example.org/t",
        "http://127.0.0.1.evil.example/t",
        "ftp://h/t",
        "file://host/x",
        "host:path",
    ],
)
def test_urls_rejected(text: str) -> None:
    """What is no address, is unencrypted, or has a secret in it is refused."""
    with pytest.raises(Invalid):
        parse_url(text)


def test_plain_http_only_when_asked() -> None:
    """The insecure flag lets plain http go beyond loopback."""
    found = parse_url("http://example.org/t", insecure_http=True)
    assert found == HttpUrl("http://example.org", "t")


@pytest.mark.parametrize("name", ["", "main", "HEAD", "deploy", "cafe", "-x", "a/b", "a" * 64])
def test_remote_names_rejected(name: str) -> None:
    """A remote cannot be called what reads as a revision or a path."""
    with pytest.raises(Invalid):
        check_remote_name(name)


def test_remotes_are_written_with_comments_kept(tmp_path: Path) -> None:
    """Adding and removing a remote leaves the rest of the file, and mode 0600."""
    workdir = tmp_path / ".gsync"
    workdir.mkdir()
    write_templates(tmp_path)
    path = workdir / "config.toml"
    before = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    add_remote(workdir, "origin", Remote("https://example.org/team"))
    add_remote(workdir, "other", Remote("/srv/store", "~/t", True))
    with pytest.raises(Conflict):
        add_remote(workdir, "origin", Remote("https://example.org/else"))
    assert path.read_text().startswith(before.rstrip())
    remotes = load_config(tmp_path, workdir, {}).remotes
    assert remotes == {
        "origin": Remote("https://example.org/team"),
        "other": Remote("/srv/store", "~/t", True),
    }
    remove_remote(workdir, "origin")
    with pytest.raises(NotFound):
        remove_remote(workdir, "origin")
    assert list(load_config(tmp_path, workdir, {}).remotes) == ["other"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in workdir.iterdir()) == ["config.toml"]


def test_templates_are_valid_and_replace_nothing(tmp_path: Path) -> None:
    """What init writes can be read, and a file that is there stays."""
    (tmp_path / ".gsync").mkdir()
    (tmp_path / "gsync.toml").write_text("version = 1 # mine\n")
    write_templates(tmp_path)
    assert "mine" in (tmp_path / "gsync.toml").read_text()
    assert load_config(tmp_path, tmp_path / ".gsync", {}).author is None


def test_environment_wins_over_the_file() -> None:
    """GSYNC_AUTHOR is used before [author], and no token is ever shown."""
    found = environment({"GSYNC_AUTHOR": "Ada <a@b>", "GSYNC_TOKEN": "secret", "NO_COLOR": "1"})
    assert (found.author, found.token, found.no_color) == ("Ada <a@b>", "secret", True)
    assert "secret" not in repr(found)


# --- Databases -----------------------------------------------------------------------

TABLES = """
[db.main.tables.users]
key = ["id"]
protected = ["roles"]
keep_rows = true

[db.main.tables.hooks]
key = ["url", "token"]
local = ["id"]
volatile = ["updated_at"]
"""


def test_tables_may_be_called_as_others_chose() -> None:
    """What stands below `tables` are names of tables and columns, no commands or addresses."""
    found = parse_shared(TABLES.encode()).databases["main"]
    assert found["users"] == TableConfig(("id",), protected=("roles",), keep_rows=True)
    assert found["hooks"].roles() == {"id": "local", "updated_at": "volatile"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[db.main.tables.t]", "has no key"),
        ('[db.main.tables.t]\nkey = "id"', "a list of names"),
        ('[db.main.tables.t]\nkey = ["a"]\nlocal = ["a"]', "two roles"),
        ('[db.main.tables.t]\nkey = ["a"]\nprotected = ["a"]', "not recorded as data"),
        ('[db.main.tables.t]\nkeys = ["a"]', "unknown setting"),
        ('[db.main.tables."a/b"]\nkey = ["a"]', "no table"),
        ('[db.Main.tables.t]\nkey = ["a"]', "not a database"),
        ('[db.main]\nurl = "x"', "addresses"),
        ('[db.main]\nfile = "postgresql://h/d"', "URLs"),
    ],
)
def test_tables_rejected(text: str, says: str) -> None:
    """A mistake below [db] is named, and an address there is refused."""
    with pytest.raises(Invalid, match=says):
        parse_shared(text.encode())


def test_database_urls() -> None:
    """Both engines, with a password only where it is asked for, which is then no part of it."""
    assert parse_database_url("sqlite:///a/b.db").location == "a/b.db"
    assert parse_database_url("sqlite:////a/b.db").location == "/a/b.db"
    found = parse_database_url("postgres://ann:p%40ss@h:5433/d?sslmode=require", with_password=True)
    assert (str(found), found.password) == ("postgresql://ann@h:5433/d?sslmode=require", "p@ss")
    assert "p@ss" not in repr(found)
    assert str(parse_database_url("postgresql:///d?host=/run/pg")) == "postgresql:///d?host=/run/pg"
    for text in ("postgresql://a:secret@h/d", "postgresql://h/d?password=secret"):
        with pytest.raises(Invalid, match="password") as caught:
            parse_database_url(text)
        assert "secret" not in f"{caught.value} {caught.value.hint}"
    for text in ("", "mysql://h/d", "sqlite://x", "sqlite:///", "h/d"):
        with pytest.raises(Invalid):
            parse_database_url(text)


def test_databases_are_written_with_comments_kept(tmp_path: Path) -> None:
    """`db add` appends to the one file and edits the other; both read back."""
    workdir = tmp_path / ".gsync"
    workdir.mkdir()
    write_templates(tmp_path)
    append_shared(tmp_path, "# why\n" + TABLES)
    add_database(workdir, "main", DatabaseConfig("postgresql://h/d", "~/.secrets/pw"))
    with pytest.raises(Conflict, match="called 'main' already"):
        add_database(workdir, "main", DatabaseConfig("postgresql://h/other"))
    config = load_config(tmp_path, workdir, {"GSYNC_DB_MAIN_PASSWORD": "x"})
    assert config.databases == ["main"]
    assert config.local.databases["main"].password_file == "~/.secrets/pw"
    assert (config.environment.password("main"), config.environment.password("other")) == (
        "x",
        None,
    )
    assert "# why" in (tmp_path / "gsync.toml").read_text()
    with pytest.raises(InvalidConfig):
        append_shared(tmp_path, "[db.main.tables.t]\nkey = 1\n")
    assert load_config(tmp_path, workdir, {}).shared == config.shared


def test_merge_policies() -> None:
    """Policies are words that gsync knows, for columns that are merged."""
    table = '[db.main.tables.t]\nkey = ["id"]\nlocal = ["n"]\n'
    text = table + 'merge = { a = "max", b = "latest(c d)" }\ntogether = [["a", "b"], ["c"]]\n'
    found = parse_shared(text.encode()).databases["main"]["t"]
    assert found.merge == (("a", "max"), ("b", "latest(c d)"))
    assert found.together == (("a", "b"), ("c",))
    for more, said in (
        ('merge = { a = "newest" }', "'newest' is no merge policy for a"),
        ('merge = { a = "latest()" }', "is no merge policy"),
        ("merge = { a = 1 }", "db.main.tables.t.merge.a: expected a text"),
        ('merge = { id = "max" }', "id is never merged"),
        ('merge = { n = "max" }', "n is never merged"),
        ('together = [["a"], ["a", "b"]]', "a stands in 'together' more than once"),
        ('together = ["a"]', "expected a list of lists"),
        ('together = [["id", "a"]]', "id is never merged"),
    ):
        with pytest.raises(InvalidConfig, match=re.escape(said)):
            parse_shared((table + more).encode())
