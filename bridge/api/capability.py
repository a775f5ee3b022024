"""The CapabilityStatement, made from what is really served (capabilitystatement.html)."""

from __future__ import annotations

from typing import Any

from bridge.fhir.search.definitions import Definition, definitions

_READS = ("read", "vread", "history-instance", "search-type")


def capability_statement(base: str, version: str, date: str) -> dict[str, Any]:
    """What this server can do.

    Args:
        base: address of the API.
        version: of the software.
        date: when this configuration took effect, as FHIR dateTime.
    """
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": date,
        "kind": "instance",
        "software": {"name": "hie-bridge", "version": version},
        "implementation": {"description": "FHIR API of a health information exchange", "url": base},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "security": {
                    "service": [
                        {
                            "coding": [
                                {
                                    "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                                    "code": "OAuth",
                                }
                            ]
                        }
                    ],
                    "description": "Bearer tokens (JWT) that name client, purpose of use and, for patients, the patient.",
                },
                "resource": [_resource(definition) for definition in definitions().values()],
            }
        ],
    }


def _resource(definition: Definition) -> dict[str, Any]:
    interactions = [*_READS, *(("create", "update") if definition.type == "Consent" else ())]
    return {
        "type": definition.type,
        "interaction": [{"code": code} for code in interactions],
        "versioning": "versioned",
        "readHistory": True,
        "updateCreate": False,
        "conditionalRead": "not-match",
        "searchParam": [{"name": name, "type": kind} for name, kind in definition.parameters.items()],
    }
