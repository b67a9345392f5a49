"""The routes of the server (06-wire, sections 1 and 2), each a few lines.

A request is authenticated, its body read up to a limit, decoded, and answered in a worker
thread by the tenant's `Answerer`. What fails becomes a status and a message here, in one table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gsync import telemetry
from gsync.errors import (
    Conflict,
    Corrupt,
    Denied,
    GsyncError,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from gsync.protocol.frames import FRAME_BYTES_MAX, Frame, read_frames
from gsync.protocol.messages import (
    FETCH_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    RUN_HEADER,
    RUN_ID,
    SESSION_BYTES,
    Limits,
    decode_begin,
    decode_fetch,
    decode_hello,
    decode_log,
    decode_wants,
    encode_entries,
    encode_error,
    encode_held,
    encode_taken,
    encode_welcome,
)
from gsync.server.auth import Accounts, Token, Unauthorized
from gsync.server.log import Record, log_defect, log_request
from gsync.server.streams import (
    CONTENT_TYPE,
    Body,
    ClientGone,
    ClientStalled,
    Defect,
    FrameStream,
    Turns,
)
from gsync.server.tenants import Tenants
from gsync.store.sqlite import SqliteStore
from gsync.transfer.answer import Answerer

STATUS: dict[type[GsyncError], int] = {  # the first that fits
    Unauthorized: 401,
    ClientStalled: 408,
    Defect: 500,
    Invalid: 400,
    Denied: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    Corrupt: 422,
    Unavailable: 503,
}

PART_SLACK_BYTES = FRAME_BYTES_MAX + (64 << 10)
"""What a part may have beyond `part_bytes`: the frame that crosses it, and a few small ones."""

MESSAGES_AT_ONCE = 32
STREAMS_AT_ONCE = 256
"""Threads for streams, which may be slow; messages have their own, so that hello never waits."""

RETRY_AFTER_S = 2

T = TypeVar("T")
Work = Callable[[Answerer], T]
Endpoint = Callable[[Request], Awaitable[ASGIApp]]


class Service:
    """What the routes share.

    Args:
        accounts: Who may do what.
        tenants: Whose stores there are.
        now_us: The clock, in microseconds since 1970.
        limits: What clients are told, and held to.
    """

    def __init__(
        self,
        accounts: Accounts,
        tenants: Tenants,
        now_us: Callable[[], int],
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._accounts = accounts
        self._tenants = tenants
        self._now_us = now_us
        self._turns = Turns()
        self._messages = anyio.CapacityLimiter(MESSAGES_AT_ONCE)
        self._streams = anyio.CapacityLimiter(STREAMS_AT_ONCE)

    async def hello(self, request: Request) -> Response:
        """Answer with refs, limits and log."""
        token = await self._token(request, "read")
        hello = decode_hello(await self._message(request))
        attached = self._tenants.attached.get(token.tenant)
        if attached is not None:
            await attached.take_in(partial(self._tenants.store, token.tenant))
        return await self._answer(token, lambda a: encode_welcome(a.hello(hello)))

    async def log(self, request: Request) -> Response:
        """Answer with more of the log."""
        token = await self._token(request, "read")
        after = decode_log(await self._message(request))
        return await self._answer(token, lambda a: encode_entries(a.log(after)))

    async def fetch(self, request: Request) -> ASGIApp:
        """Answer with the stream that brings manifests and all below them."""
        token = await self._token(request, "read")
        fetch = decode_fetch(await self._message(request, FETCH_BYTES_MAX))
        return self._stream(token, lambda a: a.fetch(fetch))

    async def objects(self, request: Request) -> ASGIApp:
        """Answer with packs of the objects asked for."""
        token = await self._token(request, "read")
        wants = decode_wants(await self._message(request), self.limits.want_max)
        return self._stream(token, lambda a: a.objects(wants))

    async def begin(self, request: Request) -> Response:
        """Pin what a push builds on; answer with what arrived of it before."""
        token = await self._token(request, "write")
        begin = decode_begin(await self._message(request))
        async with self._turns.take((token.tenant, begin.session)):
            return await self._answer(token, lambda a: encode_held(sorted(a.begin(begin))))

    async def frames(self, request: Request) -> Response:
        """Take a stream of frames while it comes; answer with what was made of it."""
        token = await self._token(request, "write")
        session = _session(request.path_params["session"])
        self._check_room()
        body = Body(request, self.limits.part_bytes + PART_SLACK_BYTES, _record(request))

        def work(answerer: Answerer) -> bytes:
            return encode_taken(answerer.frames(session, read_frames(body.pieces_in_thread())))

        async with self._turns.take((token.tenant, session)):
            return await self._answer(token, work, self._streams)

    async def _token(self, request: Request, scope: str) -> Token:
        """Return the token of the request, if it is good for `scope`."""
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        tenant = request.path_params["tenant"]
        authenticate = partial(
            self._accounts.authenticate, tenant, secret if kind.lower() == "bearer" else None
        )
        token = await anyio.to_thread.run_sync(authenticate, limiter=self._messages)
        record = _record(request)
        record.tenant, record.token = token.tenant, token.name
        record.run = _run_id(request)
        token.check_scope(scope)
        return token

    async def _message(self, request: Request, bytes_max: int = MESSAGE_BYTES_MAX) -> bytes:
        return await Body(request, bytes_max, _record(request)).read()

    async def _answer(
        self, token: Token, work: Work[bytes], limiter: anyio.CapacityLimiter | None = None
    ) -> Response:
        def run() -> bytes:
            with self._tenants.store(token.tenant) as store:
                return work(self._answerer(token, store))

        body = await anyio.to_thread.run_sync(run, limiter=limiter or self._messages)
        return Response(body, media_type=CONTENT_TYPE)

    def _stream(self, token: Token, work: Work[Iterator[Frame]]) -> ASGIApp:
        self._check_room()

        def run(take: Callable[[Iterable[Frame]], None]) -> None:
            with self._tenants.store(token.tenant) as store:
                take(work(self._answerer(token, store)))

        return FrameStream(run, self._streams)

    def _answerer(self, token: Token, store: SqliteStore) -> Answerer:
        attached = self._tenants.attached.get(token.tenant)
        hold = partial(attached.hold, store) if attached else None
        return Answerer(store, token.name, self._now_us, self.limits, hold=hold)

    def _check_room(self) -> None:
        if not self._streams.available_tokens:
            raise Unavailable(f"the server is busy with {STREAMS_AT_ONCE} transfers")


def make_app(
    service: Service,
    observe: Callable[[Record], None] | None = None,
    more: Sequence[Route] = (),
) -> ASGIApp:
    """Return the application, every request of which is logged, and told to `observe`.

    Args:
        more: Routes that come before our own.
    """

    def post(path: str, endpoint: Endpoint) -> Route:
        return Route(path, _without_defects(endpoint), methods=["POST"])

    app = Starlette(
        routes=[
            *more,
            Route("/healthz", _healthz, methods=["GET"]),
            post("/{tenant}/v1/hello", service.hello),
            post("/{tenant}/v1/log", service.log),
            post("/{tenant}/v1/fetch", service.fetch),
            post("/{tenant}/v1/objects", service.objects),
            post("/{tenant}/v1/begin", service.begin),
            post("/{tenant}/v1/frames/{session}", service.frames),
        ],
        exception_handlers={GsyncError: _answer_error, HTTPException: _answer_http_error},
    )
    app.router.redirect_slashes = False
    return _Logged(app, observe)


def status_of(error: GsyncError) -> int:
    """Return the HTTP status of an error."""
    return next(status for kind, status in STATUS.items() if isinstance(error, kind))


class _Logged:
    """Counts what is answered, and writes one line when it is done."""

    def __init__(self, app: ASGIApp, observe: Callable[[Record], None] | None) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        record = scope["gsync"] = Record(scope["method"])

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            record.bytes_out += len(message.get("body", b""))
            await send(message)

        with telemetry.served(_headers(scope)) as span:
            try:
                await self._app(scope, receive, counted)
            except ClientGone:
                record.status = 499
            finally:
                route = scope.get("route")
                record.path = route.path if isinstance(route, Route) else "-"
                if span is not None:
                    span.update_name(f"{record.method} {record.path}")
                    span.set_attribute("http.response.status_code", record.status)
                    span.set_attribute("gsync.tenant", record.tenant or "")
                log_request(record)
                if self._observe is not None:
                    self._observe(record)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _without_defects(endpoint: Endpoint) -> Endpoint:
    """Return `endpoint` with unexpected exceptions logged, and answered as our fault."""

    async def guarded(request: Request) -> ASGIApp:
        try:
            return await endpoint(request)
        except GsyncError:
            raise
        except Exception as error:
            log_defect(error)
            raise Defect from error

    return guarded


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GsyncError)
    if isinstance(error, ClientGone):
        raise error
    _record(request).error = error.kind
    status = status_of(error)
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if status == 408:
        headers["connection"] = "close"
    return Response(encode_error(error), status, headers, CONTENT_TYPE)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answer for what the router refused: a path or a method that is not there."""
    assert isinstance(error, HTTPException)
    found: GsyncError = NotFound("there is nothing here; expected /TENANT/v1/NAME, with POST")
    if error.status_code not in (404, 405):
        found = Invalid(str(error.detail))
    _record(request).error = found.kind
    return Response(encode_error(found), error.status_code, error.headers, media_type=CONTENT_TYPE)


def _session(text: str) -> bytes:
    try:
        session = bytes.fromhex(text)
    except ValueError:
        session = b""
    if len(session) != SESSION_BYTES or session.hex() != text:
        raise Invalid(f"not a session: expected {2 * SESSION_BYTES} hex digits in lower case")
    return session


def _run_id(request: Request) -> str | None:
    """Return what the client calls its run, or None where that is no such name."""
    text = request.headers.get(RUN_HEADER, "")
    return text if RUN_ID.fullmatch(text) else None


def _record(request: Request) -> Record:
    record: Record = request.scope["gsync"]
    return record
