"""The FHIR R4 REST API (http.html): read, vread, history, search; create and update of Consent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from bridge.access.consents import ConsentWriter
from bridge.access.continuation import Continuation, ContinuationSealer
from bridge.access.enforcement import Answer, Enforcer, Journal, Trail, not_found
from bridge.access.journal import AccessEntry
from bridge.access.ports import StoredConsent
from bridge.access.tokens import Refused, TokenVerifier, Unauthenticated
from bridge.api.bundles import address, history_bundle, search_bundle
from bridge.api.capability import capability_statement
from bridge.api.errors import FHIR_JSON, error_response
from bridge.api.middleware import INTERACTION, TRAIL, Surround
from bridge.errors import BridgeError, Category, Incorrect, NotFound, Unsupported
from bridge.fhir.dates import parse_date
from bridge.fhir.json import dumps
from bridge.fhir.search.query import MAX_COUNT, MAX_PARAMETERS, parse_query
from bridge.fhir.types import is_id, is_stored_type
from bridge.store.search import Position
from bridge.telemetry.metrics import Interaction

PAGE: Final = "_page"
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")
_ETAG: Final = re.compile(r'(?:W/)?"([1-9][0-9]{0,17})"')
_FORM: Final = "application/x-www-form-urlencoded"
_NO_VERSION: Final = 2**62
_CODES: Final = {Interaction.HISTORY: "history-instance", Interaction.SEARCH: "search-type"}


@dataclass(frozen=True, slots=True)
class FhirApi:
    """What the API is made of.

    Attributes:
        base: address of the API as clients write it, without a slash at the end.
        verifier: who asks.
        enforcer: reads.
        writer: Consents.
        journal: access records.
        sealer: page tokens.
        software_version: for the CapabilityStatement.
        request_bytes: longest request body.
    """

    base: str
    verifier: TokenVerifier
    enforcer: Enforcer
    writer: ConsentWriter
    journal: Journal
    sealer: ContinuationSealer
    software_version: str
    request_bytes: int


def create_fhir_app(api: FhirApi) -> FastAPI:
    """The application, to be mounted at the path of ``api.base``."""
    app = FastAPI(title="hie-bridge FHIR R4", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    routes = _Routes(api)
    for path, method, handler in (
        ("/metadata", "GET", routes.metadata),
        ("/{kind}/_search", "POST", routes.search_by_post),
        ("/{kind}/{fhir_id}/_history/{version}", "GET", routes.vread),
        ("/{kind}/{fhir_id}/_history", "GET", routes.history),
        ("/{kind}/{fhir_id}", "GET", routes.read),
        ("/{kind}/{fhir_id}", "PUT", routes.update),
        ("/{kind}", "GET", routes.search),
        ("/{kind}", "POST", routes.create),
    ):
        app.add_api_route(path, handler, methods=[method], response_model=None)
    app.add_exception_handler(BridgeError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_middleware(Surround, request_bytes=api.request_bytes)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BridgeError)
    trail: Trail | None = getattr(request.state, TRAIL, None)
    if trail is not None and error.category in (Category.FAULT, Category.UNAVAILABLE, Category.BUSY):
        await trail.fail(error.code)
    return error_response(error)


async def _answer_http_error(_: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return error_response(Unsupported("method-not-allowed", "the server does not do this here"))
    return error_response(NotFound("no-such-address", "there is nothing at this address", remedy="See /metadata."))


class _Routes:
    def __init__(self, api: FhirApi) -> None:
        self._api = api
        self._metadata = dumps(
            capability_statement(api.base, api.software_version, datetime.now(UTC).isoformat(timespec="seconds"))
        )

    async def metadata(self, request: Request) -> Response:
        request.state.interaction = Interaction.CAPABILITIES
        return Response(self._metadata, media_type=FHIR_JSON)

    async def read(self, request: Request, kind: str, fhir_id: str) -> Response:
        trail = await self._begin(request, kind, Interaction.READ)
        self._check_id(fhir_id)
        return self._resource(request, await self._api.enforcer.read(trail, kind, fhir_id))

    async def vread(self, request: Request, kind: str, fhir_id: str, version: str) -> Response:
        trail = await self._begin(request, kind, Interaction.VREAD)
        self._check_id(fhir_id)
        number = int(version) if _VERSION.fullmatch(version) else _NO_VERSION
        return self._resource(request, await self._api.enforcer.read(trail, kind, fhir_id, number))

    async def history(self, request: Request, kind: str, fhir_id: str) -> Response:
        trail = await self._begin(request, kind, Interaction.HISTORY)
        self._check_id(fhir_id)
        given = dict(_pairs(request.url.query))
        token, before = given.get(PAGE), _NO_VERSION
        if token is not None:
            rest = self._open_page(trail, token, kind)
            given, before = dict(rest.parameters), rest.key
            if rest.id != fhir_id:
                raise not_found()
        count, since = _history_parameters(given)
        shown, more = await self._api.enforcer.history(trail, kind, fhir_id, since_us=since, before=before, count=count)
        kept = tuple((name, given[name]) for name in ("_count", "_since") if name in given)
        link = f"{kind}/{fhir_id}/_history"
        following = None
        if more:
            page = Continuation(kind, kept, 0, shown[-1].version, fhir_id)
            following = address(self._api.base, link, [(PAGE, self._api.sealer.seal(page, trail.principal.binding))])
        own = address(self._api.base, link, kept if token is None else [(PAGE, token)])
        return _fresh(history_bundle(self._api.base, kind, fhir_id, shown, self_link=own, next_link=following))

    async def search(self, request: Request, kind: str) -> Response:
        trail = await self._begin(request, kind, Interaction.SEARCH)
        return await self._search(request, trail, kind, _pairs(request.url.query))

    async def search_by_post(self, request: Request, kind: str) -> Response:
        trail = await self._begin(request, kind, Interaction.SEARCH)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
            raise Unsupported("media-type-unsupported", "a search is posted as a form", remedy=f"Send {_FORM}.")
        body = await request.body()
        try:
            form = body.decode("ascii")
        except UnicodeDecodeError:
            raise _malformed_form() from None
        return await self._search(request, trail, kind, _pairs(request.url.query) + _pairs(form))

    async def create(self, request: Request, kind: str) -> Response:
        trail = await self._begin(request, kind, Interaction.CREATE)
        self._check_writable(kind)
        stored = await self._api.writer.create(trail, await _json_body(request))
        return self._stored(request, stored, 201)

    async def update(self, request: Request, kind: str, fhir_id: str) -> Response:
        trail = await self._begin(request, kind, Interaction.UPDATE)
        self._check_writable(kind)
        self._check_id(fhir_id)
        if_match = _condition(request.headers.get("if-match"))
        stored = await self._api.writer.update(trail, fhir_id, await _json_body(request), if_match)
        return self._stored(request, stored, 200)

    async def _begin(self, request: Request, kind: str, interaction: Interaction) -> Trail:
        """Who asks, before anything else is looked at."""
        setattr(request.state, INTERACTION, interaction)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated(
                "token-missing", "the request carries no bearer token", remedy="Send Authorization: Bearer."
            )
        asked = _asked(interaction, kind, request.path_params.get("fhir_id", ""))
        try:
            principal = await self._api.verifier.verify(token.strip())
        except Refused as refusal:
            trail = Trail(self._api.journal, refusal.principal, asked)
            setattr(request.state, TRAIL, trail)
            await trail.deny(refusal.code)
            raise
        trail = Trail(self._api.journal, principal, asked)
        setattr(request.state, TRAIL, trail)
        accept = request.headers.get("accept", "*/*").lower()
        if "json" not in accept and "*/*" not in accept and "application/*" not in accept:
            raise Unsupported("format-unsupported", "the formats asked for are not served", remedy="Accept JSON.")
        if not is_stored_type(kind):
            raise NotFound("type-unknown", "resources of this type are not served", remedy="See /metadata.")
        return trail

    @staticmethod
    def _check_id(fhir_id: str) -> None:
        if not is_id(fhir_id):
            raise not_found()

    @staticmethod
    def _check_writable(kind: str) -> None:
        if kind != "Consent":
            raise Unsupported("method-not-allowed", "resources of this type are not written over the API")

    async def _search(self, request: Request, trail: Trail, kind: str, pairs: list[tuple[str, str]]) -> Response:
        strict = "handling=strict" in request.headers.get("prefer", "").replace(" ", "").lower()
        tokens = [value for name, value in pairs if name == PAGE]
        after = None
        if tokens:
            rest = self._open_page(trail, tokens[0], kind)
            after = Position(rest.sort_us, rest.key)
            pairs, strict = list(rest.parameters), False
        query = parse_query(
            kind, pairs, strict=strict, base=self._api.base, expand_person=trail.principal.client.expand_person
        )
        page = await self._api.enforcer.search(trail, query, after)
        following = None
        if page.after is not None:
            rest = Continuation(kind, query.parameters, page.after.sort_us, page.after.resource_key)
            token = self._api.sealer.seal(rest, trail.principal.binding)
            following = address(self._api.base, kind, [(PAGE, token)])
        own = address(self._api.base, kind, [(PAGE, tokens[0])] if tokens else query.parameters)
        return _fresh(
            search_bundle(self._api.base, kind, page.found, self_link=own, next_link=following, total=page.total)
        )

    def _open_page(self, trail: Trail, token: str, kind: str) -> Continuation:
        rest = self._api.sealer.open(token, trail.principal.binding)
        if rest.type != kind:
            raise Incorrect("page-token-invalid", "the page token is for another type", remedy="Search again.")
        return rest

    @staticmethod
    def _resource(request: Request, answer: Answer) -> Response:
        headers = _version_headers(answer.version, answer.last_updated_us)
        if _version_of(request.headers.get("if-none-match")) == answer.version:
            return Response(None, 304, headers)
        return Response(answer.body, 200, headers, media_type=FHIR_JSON)

    def _stored(self, request: Request, stored: StoredConsent, status: int) -> Response:
        headers = _version_headers(stored.version, stored.last_updated_us)
        location = f"{self._api.base}/Consent/{stored.fhir_id}/_history/{stored.version}"
        headers["Location" if status == 201 else "Content-Location"] = location
        minimal = "return=minimal" in request.headers.get("prefer", "").lower()
        return Response(b"" if minimal else stored.body, status, headers, media_type=FHIR_JSON)


def _asked(interaction: Interaction, kind: str, fhir_id: str) -> AccessEntry:
    """What the request asks for, as far as its address is one of ours."""
    return AccessEntry(
        _CODES.get(interaction, interaction.value),
        "none",
        "undecided",
        kind if is_stored_type(kind) else None,
        fhir_id if is_id(fhir_id) else None,
    )


def _fresh(body: bytes) -> Response:
    return Response(body, 200, {"Cache-Control": "no-store"}, media_type=FHIR_JSON)


def _version_headers(version: int, last_updated_us: int) -> dict[str, str]:
    moment = datetime.fromtimestamp(last_updated_us // 1_000_000, UTC)
    return {
        "ETag": f'W/"{version}"',
        "Last-Modified": format_datetime(moment, usegmt=True),
        "Cache-Control": "no-store",
    }


def _version_of(header: str | None) -> int | None:
    match = _ETAG.fullmatch(header.strip()) if header else None
    return int(match[1]) if match else None


def _condition(header: str | None) -> int | None:
    """The version that a write asks for; a condition that is not understood must not become none."""
    version = _version_of(header)
    if header is not None and version is None:
        raise Incorrect(
            "if-match-invalid",
            "If-Match is not one entity tag of a version",
            remedy='Send the ETag as it was read: W/"1".',
        )
    return version


def _pairs(text: str) -> list[tuple[str, str]]:
    if not text:
        return []
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=2 * MAX_PARAMETERS)
    except ValueError:
        raise _malformed_form() from None


def _malformed_form() -> Incorrect:
    return Incorrect(
        "search-malformed", "the search parameters are not a URL-encoded form", remedy="Encode them as UTF-8."
    )


def _history_parameters(given: dict[str, str]) -> tuple[int, int | None]:
    """Count, and ``_since`` as µs."""
    count, since = given.get("_count", str(MAX_COUNT)), given.get("_since")
    if not count.isascii() or not count.isdigit() or int(count[:9]) == 0:
        raise Incorrect("search-count-invalid", "_count is not a whole number above 0", remedy="Use 1 or more.")
    try:
        since_us = parse_date(since.replace(" ", "+")).start_us if since else None
    except ValueError:
        raise Incorrect(
            "search-value-invalid", "_since is not a FHIR instant", remedy="See http.html#history."
        ) from None
    return min(int(count[:9]), MAX_COUNT), since_us


async def _json_body(request: Request) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("application/fhir+json", "application/json"):
        raise Unsupported(
            "media-type-unsupported", "the body's media type is not taken", remedy="Send application/fhir+json."
        )
    return await request.body()
