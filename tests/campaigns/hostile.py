"""Valid exchanges with something changed in them, fed to both sides.

Requests and answers of real exchanges are recorded; bytes are flipped, put in, left out and
doubled, frames too. A server answers each with a status below 500, a client ends each with an
error of a kind or with what an honest server would have given; no ref comes to point at less
than everything, and nobody falls over.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import requests
from support_cli import read_tree, run_here, write
from support_hostile import (
    TREE,
    announce,
    frame,
    honest,
    hostile_server,
    http,
)
from support_server import RunningServer, running_server

from gsync.errors import GsyncError
from gsync.objects.model import decode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import encode_frame
from gsync.protocol.messages import (
    Begin,
    Fetch,
    Hello,
    encode_begin,
    encode_error,
    encode_fetch,
    encode_hello,
    encode_log,
    encode_wants,
)
from gsync.store.memory import MemoryStore
from gsync.store.sqlite import SqliteStore
from gsync.sync.maintenance import verify
from gsync.transfer.answer import Answerer

SUMMARY = "mutate valid exchanges and feed them to a client and a server"
NEWER = {**TREE, b"new/file": b"n" * 3000, b"a.txt": b"edited\n", b"large": TREE[b"large"] + b"x"}
del NEWER[b"gone"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this campaign is asked."""
    parser.add_argument("--requests", type=int, default=3000, help="mutated requests to a server")
    parser.add_argument("--answers", type=int, default=1500, help="mutated answers to a client")


def run(options: argparse.Namespace) -> int:
    """Run the long form; return how many mutations ended badly."""
    seed = getattr(options, "seed", 1)
    with tempfile.TemporaryDirectory(prefix="gsync-hostile-") as directory:
        base = Path(directory)
        with running_server(base / "data") as server:
            sent = mutate_requests(server, options.requests, seed)
        answered = mutate_answers(base, options.answers, seed)
    for title, found in (("request", sent), ("answer", answered)):
        click.echo(f"{title:<10} {'mutations':>9}  ended")
        for name, outcomes in sorted(found.outcomes.items()):
            ended = ", ".join(f"{what} {n}" for what, n in sorted(outcomes.items()))
            click.echo(f"{name:<10} {sum(outcomes.values()):>9}  {ended}")
    failures = [*sent.failures, *answered.failures]
    for line in failures[:40]:
        click.echo(f"FAILED: {line}")
    return len(failures)


@dataclass
class Found:
    """How mutations ended, by what was mutated, and which ended badly."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def count(self, name: str, outcome: str) -> None:
        self.outcomes.setdefault(name, Counter())[outcome] += 1


# --- Mutations -----------------------------------------------------------------------------


def split_frames(data: bytes) -> list[bytes]:
    """The frames of a stream, encoded."""
    found = []
    while data:
        size = 4 + int.from_bytes(data[:4], "big")
        found.append(data[:size])
        data = data[size:]
    return found


def mutate(r: random.Random, body: bytes, is_stream: bool) -> tuple[bytes, str]:
    """Return the body with one to three things changed, and what they were."""
    done = []
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        kinds = [flip, put_in, leave_out, double, cut, overwrite]
        if is_stream and body and r.random() < 0.5:
            kinds = [frame_twice, frame_gone, frames_exchanged, frame_retyped, frame_mended]
        change = r.choice(kinds)
        try:
            body = change(r, body) if body else r.randbytes(3)
        except (IndexError, ValueError):
            continue  # frames no longer are
        done.append(change.__name__)
    return body, "+".join(done)


def flip(r: random.Random, body: bytes) -> bytes:
    at = r.randrange(len(body))
    return body[:at] + bytes([body[at] ^ (1 << r.randrange(8))]) + body[at + 1 :]


def put_in(r: random.Random, body: bytes) -> bytes:
    at = r.randrange(len(body) + 1)
    return body[:at] + r.randbytes(r.randrange(1, 9)) + body[at:]


def leave_out(r: random.Random, body: bytes) -> bytes:
    at = r.randrange(len(body))
    return body[:at] + body[at + r.randrange(1, 9) :]


def double(r: random.Random, body: bytes) -> bytes:
    at, size = r.randrange(len(body)), r.randrange(1, 64)
    return body[: at + size] + body[at : at + size] + body[at + size :]


def cut(r: random.Random, body: bytes) -> bytes:
    return body[: r.randrange(len(body))]


def overwrite(r: random.Random, body: bytes) -> bytes:
    at = r.randrange(len(body))
    return body[:at] + r.choice([b"\0", b"\xff", b"\xc0", b"\x7f"]) * 4 + body[at + 4 :]


def frame_twice(r: random.Random, body: bytes) -> bytes:
    frames = split_frames(body)
    at = r.randrange(len(frames))
    return b"".join([*frames[: at + 1], *frames[at:]])


def frame_gone(r: random.Random, body: bytes) -> bytes:
    frames = split_frames(body)
    del frames[r.randrange(len(frames))]
    return b"".join(frames)


def frames_exchanged(r: random.Random, body: bytes) -> bytes:
    frames = split_frames(body)
    one, other = r.randrange(len(frames)), r.randrange(len(frames))
    frames[one], frames[other] = frames[other], frames[one]
    return b"".join(frames)


def frame_retyped(r: random.Random, body: bytes) -> bytes:
    frames = split_frames(body)
    at = r.randrange(len(frames))
    frames[at] = frames[at][:4] + bytes([r.randrange(9)]) + frames[at][5:]
    return b"".join(frames)


def frame_mended(r: random.Random, body: bytes) -> bytes:
    """Change a frame's body, and give it the length that it then has: framing hides nothing."""
    frames = split_frames(body)
    at = r.randrange(len(frames))
    changed = r.choice([flip, put_in, leave_out, double, overwrite])(r, frames[at][5:])
    frames[at] = frame(frames[at][4], changed)
    return b"".join(frames)


# --- To a server ---------------------------------------------------------------------------


def stream(store: MemoryStore, wants: list[ObjectId], haves: list[ObjectId]) -> bytes:
    frames = list(Answerer(store, "x", lambda: 1).fetch(Fetch(wants, haves)))[:-1]
    return b"".join(map(encode_frame, frames))


def mutate_requests(server: RunningServer, count: int, seed: int) -> Found:
    """Send mutated requests to a real server, whose tenant has the first manifest."""
    store, roots = honest((TREE, NEWER))
    first, second = (root.manifest for root in roots)
    root = decode_manifest(store.get(Kind.MANIFEST, first)).collections[0].root
    session = "5e" * 16
    valid = {
        "hello": ("hello", encode_hello(Hello(1, (1, bytes(32))))),
        "log": ("log", encode_log(0)),
        "fetch": ("fetch", encode_fetch(Fetch([first], [second]))),
        "objects": ("objects", encode_wants([(Kind.NODE, root), (Kind.MANIFEST, first)])),
        "begin": ("begin", encode_begin(Begin(b"\x5e" * 16, [first]))),
        "frames": (
            f"frames/{session}",
            stream(store, [second], [first]) + announce(("main", first, second)),
        ),
    }
    names = [*valid, *["frames"] * 7]
    found = Found()
    tenants = (f"t{number}" for number in range(count))
    tenant = start_tenant(server, next(tenants), store, first)
    with requests.Session() as http_session:
        for number in range(count):
            r = random.Random(seed * 1_000_003 + number)
            name = r.choice(names)
            path, body = valid[name]
            if name == "frames":  # each in a session of its own, or going on in one
                path = f"frames/{r.choice([session, r.randbytes(16).hex()])}"
            changed, how = mutate(r, body, name == "frames")
            answer = http_session.post(
                f"{server.base}/{tenant}/v1/{path}",
                data=changed,
                headers={"Authorization": f"Bearer {server.token(tenant)}"},
            )
            found.count(name, str(answer.status_code))
            if answer.status_code >= 500:
                found.failures.append(f"request {number}, {name}, {how}: {answer.status_code}")
            if name == "frames" and (answer.status_code == 200 or number % 50 == 0):
                moved, problem = look_at(server, tenant, first)
                if problem:
                    found.failures.append(f"request {number}, {name}, {how}: {problem}")
                if moved or problem:
                    tenant = start_tenant(server, next(tenants), store, first)
    if "defect" in server.log():
        lines = [line for line in server.log().splitlines() if " defect " in line]
        found.failures += [f"the server's log: {line}" for line in lines]
    return found


def start_tenant(server: RunningServer, tenant: str, store: MemoryStore, first: ObjectId) -> str:
    answer = requests.post(
        f"{server.base}/{tenant}/v1/frames/{'00' * 16}",
        data=stream(store, [first], []) + announce(("main", None, first)),
        headers={"Authorization": f"Bearer {server.token(tenant)}"},
    )
    assert answer.status_code == 200, answer.content
    return tenant


def look_at(server: RunningServer, tenant: str, first: ObjectId) -> tuple[bool, str]:
    """Return whether refs are not the first any more, and what is wrong with the store."""
    with SqliteStore.open(server.data / "tenants" / tenant / "store.db") as store:
        problems = verify(store).problems
        refs = store.list_refs()
    if problems:
        return True, f"verify finds {problems[0]}"
    # Another manifest that is whole may be there: a mutation may hit a message or a content.
    return refs != {"main": first}, ""


# --- To a client ---------------------------------------------------------------------------


def mutate_answers(base: Path, count: int, seed: int) -> Found:
    """Pull from a server whose answers are mutated, each time into a fresh clone."""
    first_store, _ = honest((TREE,))
    store, _ = honest((TREE, NEWER))
    sound, work = base / "sound", base / "work"
    with hostile_server(first_store) as peer:
        code, _, err = run_here(base, "clone", f"{peer.base}/acme", "sound")
        assert code == 0, err
    config = sound / ".gsync" / "config.toml"
    config.write_text(config.read_text() + "\n[limits]\nattempts = 1\n")
    write(sound, {"unsaved": b"mine\n"})
    before = read_tree(sound)
    found = Found()
    change: dict[str, tuple[random.Random, list[str]]] = {}

    def changed(name: str) -> Callable[[bytes], Iterator[bytes]]:
        def answer(body: bytes) -> Iterator[bytes]:
            try:
                right = peer.honest(name, body)
            except GsyncError as error:  # what it was asked for came out of a mutated hello
                yield http(encode_error(error), 404)
                return
            if name in change:
                r, how = change[name]
                right, what = mutate(r, right, name != "hello")
                how.append(what)
            yield http(right)

        return answer

    after: dict[bytes, tuple[str, bytes]] = {}
    with hostile_server(store, hello=changed("hello"), fetch=changed("fetch")) as peer:
        url = f"{peer.base}/acme"
        config.write_text(re.sub(r"http://127[^\"']+", url, config.read_text()))
        for number in range(-1, count):
            r = random.Random(seed * 1_000_033 + number)
            name, how = r.choice(["hello", "fetch", "fetch", "fetch"]), list[str]()
            change.clear()
            if number >= 0:  # the first pull is honest, and says what is right
                change[name] = (r, how)
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(sound, work, symlinks=True)
            code, _, err = run_here(work, "pull")
            if number < 0:
                assert code == 0, err
                after = read_tree(work)
                assert after != before
                continue
            found.count(name, f"exit {code}")
            problem = judge(work, code, err, before, after)
            if problem:
                found.failures.append(f"answer {number}, {name}, {'+'.join(how)}: {problem}")
    return found


def judge(
    work: Path,
    code: int,
    err: str,
    before: dict[bytes, tuple[str, bytes]],
    after: dict[bytes, tuple[str, bytes]],
) -> str:
    """Return what is wrong with how a pull ended, or nothing."""
    if code not in (0, 2, 3, 4, 5, 6, 7) or "internal" in err or "Traceback" in err:
        return f"exit {code}: {err[:300]}"
    tree = read_tree(work)
    if code and tree != before:
        return f"exit {code}, and the folder changed"
    if code == 0 and tree not in (before, after) and b"unsaved" not in tree:
        return "exit 0, and the folder is neither the old nor the new one"
    with SqliteStore.open(work / ".gsync" / "store.db") as store:
        problems = verify(store).problems
    return f"exit {code}, and verify finds {problems[0]}" if problems else ""
