"""The routes of the older endpoints (15-older-peers, section 1), each a few lines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryFile
from typing import BinaryIO, TypeVar
from urllib.parse import parse_qsl

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gsync.errors import GsyncError, Invalid
from gsync.server import older
from gsync.server.auth import Token
from gsync.server.log import Record, log_defect
from gsync.server.oauth import ExchangeRefused, TokenExchange
from gsync.server.streams import STALL_S, Body, ClientGone, Defect, Turns
from gsync.server.tenants import Tenants
from gsync.store.sqlite import SqliteStore

AT_ONCE = 8
"""Archives that are read or written at once: each takes a processor."""

FORM_BYTES_MAX = 16 << 10
RETRY_AFTER_S = 2
_CHUNK_BYTES = 256 << 10
_TRUE, _FALSE = ("true", "1", "yes"), ("", "false", "0", "no")

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[ASGIApp]]


class OlderService:
    """What the older routes share.

    Args:
        exchange: Who may do what, by a token or by what was given for one.
        tenants: Whose stores there are.
        now_us: The clock, in microseconds since 1970.
    """

    def __init__(
        self, exchange: TokenExchange, tenants: Tenants, now_us: Callable[[], int]
    ) -> None:
        self._exchange = exchange
        self._tenants = tenants
        self._now_us = now_us
        self._listings = older.Listings()
        self._turns = Turns()
        self._at_once = anyio.CapacityLimiter(AT_ONCE)

    def routes(self) -> list[Route]:
        """Return them."""

        def route(
            path: str, endpoint: Callable[[Request], Awaitable[ASGIApp]], method: str
        ) -> Route:
            return Route(path, _answered(endpoint), methods=[method])

        relay = "/api/v1/cloud/tenants/{tenant}/files"
        return [
            Route("/api/v1/sync/capabilities", _capabilities, methods=["GET"]),
            route("/api/v1/core/oauth/token", self.token, "POST"),
            route("/api/v1/sync/files/manifest", self.manifest, "GET"),
            route("/api/v1/sync/files", self.download, "GET"),
            route("/api/v1/sync/files", self.upload, "POST"),
            route(relay, self.download, "GET"),
            route(relay, self.upload, "POST"),
        ]

    async def token(self, request: Request) -> Response:
        """Give a token for a token."""
        body = await Body(request, FORM_BYTES_MAX, _record(request)).read()
        try:
            form = _form(body)
            answer = await anyio.to_thread.run_sync(self._exchange.exchange, form)
        except ExchangeRefused as error:
            _record(request).error = error.kind
            refusal = {"error": error.oauth_error, "error_description": error.message}
            return JSONResponse(refusal, 400, {"cache-control": "no-store"})
        return JSONResponse(answer, headers={"cache-control": "no-store"})

    async def manifest(self, request: Request) -> ASGIApp:
        """Answer with what main holds, in the older form."""
        token = await self._authorized(request, "read")
        directories = older.parse_filter(request.query_params.get("filter"))

        def work(store: SqliteStore) -> Response:
            head = store.find_ref("main")
            document = self._listings.manifest(store, head, directories)
            return JSONResponse(document, headers=_tagged(head))

        return await self._run(token, work)

    async def download(self, request: Request) -> ASGIApp:
        """Answer with a tarball of what main holds; or, for a dry run, with its manifest."""
        if _flag(request, "dry_run"):
            return await self.manifest(request)
        token = await self._authorized(request, "read")
        directories = older.parse_filter(request.query_params.get("filter"))

        def work(store: SqliteStore) -> ASGIApp:
            head = store.find_ref("main")
            with ExitStack() as stack:
                spool = stack.enter_context(TemporaryFile(dir=store.path.parent))
                older.write_archive(store, head, directories, spool)
                stack.pop_all()  # whoever sends it closes it
            return _FileAnswer(spool, _tagged(head))

        return await self._run(token, work)

    async def upload(self, request: Request) -> ASGIApp:
        """Take a tarball in, and answer with what came of it."""
        token = await self._authorized(request, "write")
        dry_run = _flag(request, "dry_run")
        only_on = request.headers.get("if-match")
        body = Body(request, older.UPLOAD_BYTES_MAX, _record(request))
        attached = self._tenants.attached.get(token.tenant)

        def work(store: SqliteStore) -> Response:
            done = older.take_upload(
                body.pieces_in_thread(),
                store,
                token.name,
                self._now_us,
                partial(attached.hold, store) if attached else None,
                only_on=only_on.strip('"') if only_on is not None else None,
                dry_run=dry_run,
            )
            return JSONResponse(done.document, headers=_tagged(done.head))

        async with self._turns.take(token.tenant):
            return await self._run(token, work)

    async def _authorized(self, request: Request, scope: str) -> Token:
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        tenant = request.path_params.get("tenant")
        authenticate = partial(
            self._exchange.authenticate, tenant, secret if kind.lower() == "bearer" else None
        )
        token = await anyio.to_thread.run_sync(authenticate)
        record = _record(request)
        record.tenant, record.token = token.tenant, token.name
        token.check_scope(scope)
        attached = self._tenants.attached.get(token.tenant)
        if attached is not None and scope == "read":
            await attached.take_in(partial(self._tenants.store, token.tenant))
        return token

    async def _run(self, token: Token, work: Callable[[SqliteStore], T]) -> T:
        def run() -> T:
            with self._tenants.store(token.tenant) as store:
                return work(store)

        return await anyio.to_thread.run_sync(run, limiter=self._at_once)


class _FileAnswer:
    """A tarball that was made, and goes out piece by piece."""

    def __init__(self, spool: BinaryIO, headers: dict[str, str]) -> None:
        self._spool = spool
        self._headers = {
            "content-type": "application/gzip",
            "content-disposition": 'attachment; filename="files.tar.gz"',
            "content-length": str(spool.tell()),
            **headers,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._spool.seek(0)
            headers = [(n.encode(), v.encode()) for n, v in self._headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            more = True
            while more:
                piece = await anyio.to_thread.run_sync(self._spool.read, _CHUNK_BYTES)
                more = bool(piece)
                with anyio.fail_after(STALL_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": more})
        finally:
            self._spool.close()


def _answered(endpoint: Endpoint) -> Endpoint:
    """Return `endpoint` with what fails as a document of the older form."""

    async def answered(request: Request) -> ASGIApp:
        try:
            return await endpoint(request)
        except ClientGone:
            raise
        except GsyncError as error:
            return _refusal(request, error)
        except Exception as error:
            log_defect(error)
            return _refusal(request, Defect(), 500)

    return answered


def _refusal(request: Request, error: GsyncError, status: int | None = None) -> Response:
    _record(request).error = error.kind
    found, document = older.envelope(error)
    headers = {}
    if found == 401:
        headers["www-authenticate"] = "Bearer"
    if found == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if found in (408, 413):
        headers["connection"] = "close"
    return JSONResponse(document, status or found, headers)


def _form(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError:  # a UnicodeDecodeError is one
        raise ExchangeRefused("invalid_request", "expected a form") from None


async def _capabilities(request: Request) -> Response:
    return JSONResponse(older.CAPABILITIES)


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "").lower()
    if text not in _TRUE + _FALSE:
        raise Invalid(f"{name}: expected true or false, found {text[:40]!r}")
    return text in _TRUE


def _tagged(head: bytes | None) -> dict[str, str]:
    return {"etag": f'"{head.hex() if head else ""}"'}


def _record(request: Request) -> Record:
    record: Record = request.scope["gsync"]
    return record
