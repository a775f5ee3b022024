"""Writing Consents over the API: read, understand, authorise, record the access, record the Consent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge.access.enforcement import Enforcer, Trail
from bridge.access.journal import AccessEntry
from bridge.access.ports import ConsentRecorder, StoredConsent
from bridge.access.settings import Role
from bridge.access.writing import authorize_consent, not_authorised
from bridge.consent.rule import Rule, compile_consent
from bridge.errors import Conflict, Forbidden, Incorrect
from bridge.fhir.json import loads, loads_stored

# The elements of Consent in R4; what else stands in one is refused rather than stored and served.
_ELEMENTS: Final = frozenset(
    [
        "resourceType",
        "id",
        "meta",
        "implicitRules",
        "language",
        "text",
        "contained",
        "extension",
        "modifierExtension",
        "identifier",
        "status",
        "_status",
        "scope",
        "category",
        "patient",
        "dateTime",
        "_dateTime",
        "performer",
        "organization",
        "sourceAttachment",
        "sourceReference",
        "policy",
        "policyRule",
        "verification",
        "provision",
    ]
)


class ConsentWriter:
    """Creates and updates Consents for callers.

    Args:
        enforcer: reads.
        recorder: records what was authorised.
        custodian_sites: sites of each custodian, by its names.
    """

    def __init__(
        self, enforcer: Enforcer, recorder: ConsentRecorder, custodian_sites: Mapping[str, frozenset[str]]
    ) -> None:
        self._enforcer = enforcer
        self._recorder = recorder
        self._custodian_sites = custodian_sites

    async def create(self, trail: Trail, body: bytes) -> StoredConsent:
        """Stores a new Consent.

        Raises:
            Incorrect, Unsupported: it is not understood (``json-…``, ``consent-…``); nothing is stored.
            Forbidden: ``consent-not-authorised``.
        """
        resource, rule = _understand(body)
        try:
            await self._authorize(trail, rule, None)
        except Forbidden as error:
            await trail.record([AccessEntry("create", "deny", error.code, "Consent")])
            raise
        await trail.record([await self._permitted("create", rule, None)])
        return await self._recorder.create_consent(resource, organization=trail.principal.client.organization)

    async def update(self, trail: Trail, fhir_id: str, body: bytes, if_match: int | None) -> StoredConsent:
        """Stores a new version of a Consent that the caller sees.

        Raises:
            Incorrect, Unsupported: as :meth:`create`; judged before anything is looked up.
            NotFound: ``resource-not-found``: absent and hidden alike.
            Forbidden: ``consent-not-authorised``.
            Conflict: ``version-conflict``.
        """
        resource, rule = _understand(body)
        if resource.get("id") != fhir_id:
            raise Incorrect(
                "consent-id-mismatch", "the Consent's id is not that of the address", remedy="Make them equal."
            )
        current = await self._enforcer.read(trail, "Consent", fhir_id)
        try:
            await self._authorize(trail, rule, compile_consent(loads_stored(current.body)))
        except Forbidden as error:
            await trail.record([AccessEntry("update", "deny", error.code, "Consent", fhir_id)])
            raise
        if if_match is not None and if_match != current.version:
            raise Conflict("version-conflict", "the Consent has changed meanwhile", remedy="Read it again.")
        await trail.record([await self._permitted("update", rule, fhir_id)])
        return await self._recorder.update_consent(
            fhir_id,
            resource,
            expected_version=current.version,
            organization=trail.principal.client.organization,
        )

    async def _authorize(self, trail: Trail, rule: Rule, replaced: Rule | None) -> None:
        principal = trail.principal
        own = await self._enforcer.own_records(principal)
        authorize_consent(principal, rule, replaced, own=own)
        if principal.client.role is Role.CONSENT_OFFICER:
            # An absent patient has no record anywhere, and gets the same refusal as another custodian's.
            sites = self._custodian_sites.get(rule.custodian, frozenset())
            if sites.isdisjoint(await self._enforcer.sites_of(rule.patient)):
                raise not_authorised()

    async def _permitted(self, interaction: str, rule: Rule, fhir_id: str | None) -> AccessEntry:
        patient = await self._enforcer.patient(rule.patient)
        return AccessEntry(
            interaction,
            "permit",
            "consent-writer",
            "Consent",
            fhir_id,
            patient_key=patient.compartment.patient_key if patient else None,
            owner=patient.record_uuid if patient else None,
        )


def _understand(body: bytes) -> tuple[dict[str, Any], Rule]:
    resource = loads(body)
    rule = compile_consent(resource)
    _check_elements(resource)
    return resource, rule


def _check_elements(resource: Mapping[str, Any]) -> None:
    if not resource.keys() <= _ELEMENTS:
        raise Incorrect(
            "consent-element-unknown", "the Consent has an element that R4 does not define", remedy="Remove it."
        )
    if not isinstance(resource.get("scope"), dict) or not resource.get("category"):
        raise Incorrect(
            "consent-incomplete",
            "a Consent needs scope and category (R4, 1..1 and 1..*)",
            remedy="Add what is missing.",
        )
