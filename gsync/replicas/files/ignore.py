"""What stays out of a file tree: rule files, and names that look like secrets (08-files, 2 and 3).

Rules keep *new* paths out; whether a path is tracked already is the caller's to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from gsync.errors import TooLarge
from gsync.objects.oid import blob_id
from gsync.paths import show_path

RULE_FILE = b".gsyncignore"
RULE_FILE_BYTES_MAX = 1 << 20

# Compared in lower case. What these tools write is a password or a key in plain text.
_SECRET_NAMES = frozenset(
    (
        *(
            b"secrets.json",
            b"id_rsa",
            b"id_dsa",
            b"credentials",
            b"application_default_credentials.json",
        ),
        *(b"credentials.json", b"credentials.yml", b"credentials.yaml", b"credentials.toml"),
        *(b"credentials.ini", b"credentials.csv", b"credentials.db", b".credentials"),
        *(b".credentials.json", b".netrc", b"_netrc", b".pgpass", b".git-credentials", b".pypirc"),
        *(b".my.cnf", b".htpasswd", b".dockercfg"),
    )
)
_KEY_PREFIXES = (b"id_ecdsa", b"id_ed25519")
_ENV_FINE = frozenset((b".env.example", b".env.sample", b".env.template"))
_NAMES_SOMETHING = re.compile(r"[^\W_]")


class Verdict(IntEnum):
    """Why a name is not an entry. Stored in the stat cache: numbers are never reused."""

    OWN = 0
    IGNORED = 1
    SECRET = 2
    SPECIAL = 3
    DIRECTORY = 4
    ILLEGAL = 5


def is_secret(path: bytes) -> bool:
    """Return whether `path` is held back unless a rule includes it on purpose; under 1 µs.

    Its last component decides, and any directory above that is named `.env*`.
    """
    head, _, name = path.rpartition(b"/")
    if is_secret_name(name):
        return True
    return b".env" in head.lower() and any(is_secret_directory(part) for part in head.split(b"/"))


def is_secret_name(name: bytes) -> bool:
    """Return whether a file with this name is held back."""
    name = name.lower()
    if name.startswith(b".env"):
        return name not in _ENV_FINE
    if name in _SECRET_NAMES or name.endswith(b".pem"):
        return True
    return name.startswith(_KEY_PREFIXES) and not name.endswith(b".pub")


def is_secret_directory(name: bytes) -> bool:
    """Return whether a directory with this name is held back with all that is in it."""
    name = name.lower()
    return name.startswith(b".env") and name not in _ENV_FINE


class _Rule(NamedTuple):
    includes: bool  # a negated line
    is_deliberate: bool  # its last component names something, so it may include a secret
    may_end_early: bool
    match: Callable[[str], re.Match[str] | None]


class Rules:
    """The rules that hold in one directory: its own rule file, then those above it.

    Attributes:
        fingerprint: Equal for equal rules; verdicts made under it stay true.
    """

    def __init__(self, above: Rules | None, directory: bytes, text: bytes | None) -> None:
        self._above = above
        self._directory = directory
        self._text = text
        self._rules: list[_Rule] | None = None
        before: bytes = above.fingerprint if above else b"gsync rules 1"
        self.fingerprint: bytes = before if text is None else blob_id(before + blob_id(text))[:16]

    def verdict(self, path: bytes, *, is_directory: bool) -> Verdict | None:
        """Return IGNORED or SECRET for a new path, or None if it is let in.

        Directories above `path` were let in, as in Git: what lies below an excluded
        directory is never asked for.
        """
        name = path.rpartition(b"/")[2]
        by_rule = self._last_rule(path, is_directory)
        if by_rule is not None and not by_rule.includes:
            return Verdict.IGNORED
        deliberate = by_rule is not None and by_rule.is_deliberate
        if is_directory:
            if name == b".git" and not deliberate:
                return Verdict.IGNORED
            return Verdict.SECRET if is_secret_directory(name) and not deliberate else None
        return Verdict.SECRET if is_secret_name(name) and not deliberate else None

    def _last_rule(self, path: bytes, is_directory: bool) -> _Rule | None:
        level: Rules | None = self
        while level is not None:
            if level._text is not None:
                below = path[len(level._directory) + 1 :] if level._directory else path
                found = level._find(below.decode("utf-8", "surrogateescape"), is_directory)
                if found is not None:
                    return found
            level = level._above
        return None

    def _find(self, path: str, is_directory: bool) -> _Rule | None:
        if self._rules is None:
            self._rules = _parse(self._text or b"", self._directory)
        as_directory = path + "/"
        for rule in reversed(self._rules):
            # A pattern also matches everything below what it names. Here only the path
            # itself counts: what lies below is asked for by itself, or not at all.
            if not rule.may_end_early:
                if rule.match(path):
                    return rule
                continue
            match = rule.match(as_directory if is_directory else path)
            if match and match.end("ps_d") in (-1, len(as_directory)):
                return rule
        return None


def _parse(text: bytes, directory: bytes) -> list[_Rule]:
    # Imported here: 50 ms that a folder without rules never pays.
    from pathspec.patterns.gitignore import GitIgnorePatternError
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    if len(text) > RULE_FILE_BYTES_MAX:
        where = show_path(directory + b"/" + RULE_FILE if directory else RULE_FILE)
        raise TooLarge(f"{where} has {len(text)} bytes, of {RULE_FILE_BYTES_MAX} at most")
    rules = []
    for line in text.decode("utf-8", "surrogateescape").removeprefix("\ufeff").splitlines():
        try:
            pattern = GitIgnoreSpecPattern(line)
        except (GitIgnorePatternError, re.error, ValueError):
            continue  # as Git: a line that is no pattern matches nothing
        if pattern.include is None or pattern.regex is None:
            continue
        last = line.rstrip().rstrip("/").rpartition("/")[2]
        may_end_early = "ps_d" in pattern.regex.groupindex
        named = _NAMES_SOMETHING.search(last) is not None
        rules.append(_Rule(not pattern.include, named, may_end_early, pattern.regex.match))
    return rules
