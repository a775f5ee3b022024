"""Categories of error → HTTP status and OperationOutcome: here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from bridge.access.tokens import Unauthenticated
from bridge.errors import BridgeError, Category
from bridge.fhir.json import dumps
from bridge.fhir.outcome import operation_outcome

FHIR_JSON: Final = "application/fhir+json; charset=utf-8"

# Category → (HTTP status, code of http://hl7.org/fhir/issue-type).
_ANSWERS: Final[Mapping[Category, tuple[int, str]]] = {
    Category.INCORRECT: (400, "invalid"),
    Category.FORBIDDEN: (403, "forbidden"),
    Category.NOT_FOUND: (404, "not-found"),
    Category.CONFLICT: (409, "conflict"),
    Category.BUSY: (429, "throttled"),
    Category.UNAVAILABLE: (503, "transient"),
    Category.UNSUPPORTED: (400, "not-supported"),
    Category.FAULT: (500, "exception"),
}
# Where HTTP has a word of its own for the cause.
_STATUS: Final[Mapping[str, int]] = {
    "request-too-large": 413,
    "json-too-large": 413,
    "request-too-slow": 408,
    "media-type-unsupported": 415,
    "search-format-unsupported": 406,
    "format-unsupported": 406,
    "method-not-allowed": 405,
    "version-conflict": 412,
    "consent-element-unsupported": 422,
    "consent-incomplete": 422,
    "consent-element-unknown": 422,
    "consent-type-missing": 422,
}
_RETRY_SECONDS: Final = "1"


def error_response(error: BridgeError) -> Response:
    """The answer to a request that failed: an OperationOutcome without health data."""
    status, issue = _ANSWERS[error.category]
    status = _STATUS.get(error.code, status)
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, Unauthenticated):
        status, issue = 401, "login"
        # RFC 6750 section 3.1: no error code where no token was sent at all.
        reason = "" if error.code == "token-missing" else ' error="invalid_token"'
        headers["WWW-Authenticate"] = f'Bearer realm="fhir"{"," if reason else ""}{reason}'
    if error.category in (Category.BUSY, Category.UNAVAILABLE):
        headers["Retry-After"] = _RETRY_SECONDS
    text = f"{error.message}. {error.remedy}" if error.remedy else error.message
    outcome = operation_outcome(issue, text, code=error.code)
    return Response(dumps(outcome), status, headers, media_type=FHIR_JSON)
