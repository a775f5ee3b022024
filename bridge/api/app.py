"""The web application of the role ``serve``: FHIR API and operations under one address."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import FastAPI

from bridge.api.fhir import FhirApi, create_fhir_app
from bridge.api.operations import Check, Checkpoint, create_operations_app


def create_app(api: FhirApi, *, checks: dict[str, Check], checkpoint: Checkpoint, metrics: bool = False) -> FastAPI:
    """The FHIR API at the path of its base address, everything else at the root.

    Run it with ``access_log=False``: request lines hold identifiers.
    """
    app = create_operations_app(checks, checkpoint, metrics=metrics)
    app.mount(urlsplit(api.base).path or "/fhir", create_fhir_app(api))
    return app
