"""FHIR R4 resources and Bundles as input: the same operations that HL7 v2 messages give.

A FHIR resource states itself as a whole: what it does not say is cleared. It is named by (source, type, id); a Patient also by
its identifiers of the site's ``record`` authorities, so that both roads lead to one record. References within the source
become references to those names; contained ones and those to other servers stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from bridge.config.site import AuthorityUse
from bridge.errors import Incorrect
from bridge.fhir.shapes import misshapen
from bridge.fhir.types import is_id, parse_instant
from bridge.mapping.objects import choice_of
from bridge.mapping.operations import (
    Conversion,
    Delete,
    IdentityKey,
    Operation,
    Report,
    Stamp,
    Target,
    TargetReference,
    UnitChange,
    UnitKind,
    Upsert,
)

if TYPE_CHECKING:
    from bridge.config.site import Site

Json = Any

RESOURCE_TYPES: Final = frozenset(
    """
    Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse AuditEvent Basic Binary
    BiologicallyDerivedProduct BodyStructure Bundle CapabilityStatement CarePlan CareTeam CatalogEntry ChargeItem
    ChargeItemDefinition Claim ClaimResponse ClinicalImpression CodeSystem Communication CommunicationRequest
    CompartmentDefinition Composition ConceptMap Condition Consent Contract Coverage CoverageEligibilityRequest
    CoverageEligibilityResponse DetectedIssue Device DeviceDefinition DeviceMetric DeviceRequest DeviceUseStatement
    DiagnosticReport DocumentManifest DocumentReference EffectEvidenceSynthesis Encounter Endpoint EnrollmentRequest
    EnrollmentResponse EpisodeOfCare EventDefinition Evidence EvidenceVariable ExampleScenario ExplanationOfBenefit
    FamilyMemberHistory Flag Goal GraphDefinition Group GuidanceResponse HealthcareService ImagingStudy Immunization
    ImmunizationEvaluation ImmunizationRecommendation ImplementationGuide InsurancePlan Invoice Library Linkage List Location
    Measure MeasureReport Media Medication MedicationAdministration MedicationDispense MedicationKnowledge MedicationRequest
    MedicationStatement MedicinalProduct MedicinalProductAuthorization MedicinalProductContraindication
    MedicinalProductIndication MedicinalProductIngredient MedicinalProductInteraction MedicinalProductManufactured
    MedicinalProductPackaged MedicinalProductPharmaceutical MedicinalProductUndesirableEffect MessageDefinition MessageHeader
    MolecularSequence NamingSystem NutritionOrder Observation ObservationDefinition OperationDefinition OperationOutcome
    Organization OrganizationAffiliation Parameters Patient PaymentNotice PaymentReconciliation Person PlanDefinition
    Practitioner PractitionerRole Procedure Provenance Questionnaire QuestionnaireResponse RelatedPerson RequestGroup
    ResearchDefinition ResearchElementDefinition ResearchStudy ResearchSubject RiskAssessment RiskEvidenceSynthesis Schedule
    SearchParameter ServiceRequest Slot Specimen SpecimenDefinition StructureDefinition StructureMap Subscription Substance
    SubstanceNucleicAcid SubstancePolymer SubstanceProtein SubstanceReferenceInformation SubstanceSourceMaterial
    SubstanceSpecification SupplyDelivery SupplyRequest Task TerminologyCapabilities TestReport TestScript ValueSet
    VerificationResult VisionPrescription
    """.split()  # noqa: SIM905 - 148 quoted names would be no easier to read
)
_BUNDLES: Final = frozenset({"transaction", "batch", "message", "history", "searchset", "collection", "document"})
_ELEMENT: Final = re.compile(r"_?[a-z][A-Za-z0-9]*")
_LITERAL: Final = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")
_OWN_META: Final = frozenset({"versionId", "lastUpdated"})
_PATIENT_ELEMENTS: Final = ("subject", "patient", "beneficiary", "individual")

_Urls = Mapping[str, Target]


def convert_fhir(document: Mapping[str, Json], site: Site, *, received_us: int) -> list[Conversion]:
    """What a resource, or each entry of a Bundle, asks for.

    Args:
        document: a decoded FHIR resource or Bundle (``bridge.fhir.json.loads``).
        site: the file of the site that sent it.
        received_us: when it was received, µs; stands in for ``meta.lastUpdated`` where a resource has none.

    Raises:
        Incorrect: ``fhir-invalid`` (no resource of R4, empty or unnamed elements, an element of another JSON type than R4's,
            a Bundle without usable entries),
            ``fhir-without-id`` (nothing names the resource), ``foreign-authority`` is never raised: a FHIR Patient is
            named by its source and id.
    """
    if document.get("resourceType") != "Bundle":
        _check(document)
        return [_conversion(document, site, received_us, {}, "")]
    kind = document.get("type")
    if not isinstance(kind, str) or kind not in _BUNDLES:
        raise _invalid("the Bundle is of no type that carries resources", "Send a transaction, batch or collection.")
    entries = document.get("entry", [])
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise _invalid("Bundle.entry is not a list of entries")
    methods = [_method(entry) for entry in entries]
    stating = [
        entry
        for entry, method in zip(entries, methods, strict=True)
        if "resource" in entry and method not in ("DELETE", "GET")
    ]
    for entry in stating:
        _check(entry["resource"])
    urls = dict(_full_urls(stating, site))
    found: list[Conversion] = []
    for entry, method in zip(entries, methods, strict=True):
        if method == "DELETE":
            found.append(_deletion(entry, site, received_us))
        elif "resource" in entry and method != "GET":
            url = entry.get("fullUrl", "")
            found.append(_conversion(entry["resource"], site, received_us, urls, url if isinstance(url, str) else ""))
    return found


def _method(entry: Mapping[str, Json]) -> Json:
    request = entry.get("request")
    return request.get("method") if isinstance(request, Mapping) else None


def _full_urls(entries: list[Mapping[str, Json]], site: Site) -> Iterator[tuple[str, Target]]:
    for entry in entries:
        url = entry.get("fullUrl")
        if isinstance(url, str):
            target = _target(entry["resource"], site, url)
            if target is not None:
                yield url, target


def _conversion(resource: Mapping[str, Json], site: Site, received_us: int, urls: _Urls, url: str) -> Conversion:
    """Of a checked resource."""
    kind = resource["resourceType"]
    target = _target(resource, site, url)
    if target is None:
        raise Incorrect(
            "fhir-without-id", "neither id, full URL nor identifier names the resource", remedy="Send Resource.id."
        )
    meta = resource.get("meta", {})
    time_us = _time(meta, received_us)
    version = str(meta.get("versionId", ""))
    stamp = Stamp(1, time_us, f"{version:0>20}:{site.site}")
    reports: dict[Report, None] = {}
    units = tuple(_units(resource, site, urls, reports))
    operation = Upsert(target, stamp, site.site, units, whole=True)
    return Conversion(
        event=f"fhir:{kind}",
        kind="fhir",
        time_us=time_us,
        patient=target if kind == "Patient" else _patient(units),
        operations=(operation,),
        mapped=len(units),
        reports=tuple(reports),
    )


def _deletion(entry: Mapping[str, Json], site: Site, received_us: int) -> Conversion:
    url = entry["request"].get("url")
    match = _LITERAL.fullmatch(url) if isinstance(url, str) else None
    if match is None or match[1] not in RESOURCE_TYPES:
        raise _invalid("a deletion names no resource by type and id")
    target = _by_id(match[1], match[2], site)
    response = entry.get("response", {})
    told = response.get("lastModified") if isinstance(response, Mapping) else None
    time_us = _instant(told) if isinstance(told, str) else received_us
    operation: Operation = Delete(target, Stamp(1, time_us, f"~:{site.site}"), site.site)
    patient = target if match[1] == "Patient" else None
    return Conversion(f"fhir:{match[1]}", "fhir", time_us, patient, (operation,))


def _check(resource: Json) -> None:
    if not isinstance(resource, Mapping):
        raise _invalid("a resource is not a JSON object")
    kind = resource.get("resourceType")
    if not isinstance(kind, str) or kind not in RESOURCE_TYPES or kind == "Bundle":
        raise _invalid("resourceType is no resource type of R4", "Send R4 (4.0.1) resources.")
    if "id" in resource and not (isinstance(resource["id"], str) and is_id(resource["id"])):
        raise _invalid("Resource.id has not the form of an id")
    for name, value in resource.items():
        if name != "resourceType":
            _check_element(name, value)
    element = misshapen(resource)
    if element is not None:
        raise _invalid(f"{element} holds JSON of another type than R4 gives it")


def _check_element(name: str, value: Json) -> None:  # noqa: C901 - one branch for each way to be empty
    """Element names and the rule that nothing is empty (FHIR R4 json.html), at every depth."""
    if not _ELEMENT.fullmatch(name) and name != "resourceType":
        raise _invalid("an element has a name that FHIR does not have")
    items = value if isinstance(value, list) else [value]
    if not items or (isinstance(value, list) and all(item is None for item in items)):
        raise _invalid("an element is an empty list")
    for item in items:
        if item is None:
            if not isinstance(value, list):
                raise _invalid("an element is null")
        elif isinstance(item, list):
            raise _invalid("an element is a list of lists")
        elif isinstance(item, Mapping):
            if not item:
                raise _invalid("an element is an empty object")
            for inner, content in item.items():
                _check_element(inner, content)
        elif item == "":
            raise _invalid("an element is an empty text")


# names


def _namespace(site: Site) -> str:
    return f"urn:hie-bridge:site:{site.site}"


def _by_id(kind: str, identifier: str, site: Site) -> Target:
    return Target((IdentityKey(kind, _namespace(site), "fhir-id", identifier),))


def _target(resource: Mapping[str, Json], site: Site, url: str) -> Target | None:
    kind = resource["resourceType"]
    keys: list[IdentityKey] = []
    identifiers = resource.get("identifier", ())
    identifiers = identifiers if isinstance(identifiers, list) else [identifiers] if identifiers else []
    if kind == "Patient":
        keys = _records(identifiers, site)
    identifier = resource.get("id")
    if isinstance(identifier, str):
        keys += _by_id(kind, identifier, site).keys
    if not keys and url:
        keys.append(IdentityKey(kind, _namespace(site), "fhir-url", url))
    if not keys:
        for one in identifiers:
            if isinstance(one, Mapping) and isinstance(one.get("value"), str):
                keys.append(IdentityKey(kind, _namespace(site), str(one.get("system", "")), one["value"]))
                break
    return Target(tuple(keys)) if keys else None


def _records(identifiers: list[Json], site: Site) -> list[IdentityKey]:
    """Keys of a Patient's identifiers of `record` authorities, in the site's order."""
    ranks = site.record_rank
    types = {one.system: one.types for one in site.authorities if one.use is AuthorityUse.RECORD}
    found: set[tuple[int, IdentityKey]] = set()
    for one in identifiers:
        if not isinstance(one, Mapping) or one.get("system") not in ranks or not isinstance(one.get("value"), str):
            continue
        system = one["system"]
        allowed = types[system]
        kind = _type_code(one.get("type"))
        if allowed and kind and kind not in allowed:
            continue
        if not kind and len(allowed) == 1:
            kind = allowed[0]
        found.add((ranks[system], IdentityKey("Patient", system, kind, one["value"])))
    return [key for _, key in sorted(found)]


def _type_code(concept: Json) -> str:
    codings = concept.get("coding", ()) if isinstance(concept, Mapping) else ()
    return next((str(one["code"]) for one in codings if isinstance(one, Mapping) and "code" in one), "")


def _patient(units: tuple[UnitChange, ...]) -> Target | None:
    for unit in units:
        if unit.path in _PATIENT_ELEMENTS and isinstance(unit.value, Mapping):
            reference = unit.value.get("reference")
            if isinstance(reference, TargetReference) and reference.target.resource_type == "Patient":
                return reference.target
    return None


# content


def _units(resource: Mapping[str, Json], site: Site, urls: _Urls, reports: dict[Report, None]) -> Iterator[UnitChange]:
    grouped: dict[str, dict[str, Json]] = {}
    for name, value in resource.items():
        if name in ("resourceType", "id"):
            continue
        content = value
        if name == "meta":
            content = {key: item for key, item in value.items() if key not in _OWN_META}
            if not content:
                continue
        path = choice_of(name) or name
        if name.startswith("_") or f"_{name}" in resource:
            path = choice_of(name) or f"{name.removeprefix('_')}[x]"
        grouped.setdefault(path, {})[name] = _referred(content, site, urls, reports)
    for path, members in grouped.items():
        yield UnitChange(path, UnitKind.ELEMENT, members if path.endswith("[x]") else members[path])


def _referred(value: Json, site: Site, urls: _Urls, reports: dict[Report, None]) -> Json:
    if isinstance(value, Mapping):
        made = {key: _referred(item, site, urls, reports) for key, item in value.items()}
        text = made.get("reference")
        if isinstance(text, str):
            made["reference"] = _reference(text, site, urls, reports)
        return made
    return [_referred(item, site, urls, reports) for item in value] if isinstance(value, list) else value


def _reference(text: str, site: Site, urls: _Urls, reports: dict[Report, None]) -> Json:
    if text in urls:
        return TargetReference(urls[text])
    match = _LITERAL.fullmatch(text)
    if match is not None and match[1] in RESOURCE_TYPES:
        known = next((target for url, target in urls.items() if url.endswith(f"/{match[1]}/{match[2]}")), None)
        return TargetReference(known or _by_id(match[1], match[2], site))
    if not text.startswith("#"):
        reports[Report("reference-not-resolved")] = None
    return text


def _time(meta: Mapping[str, Json], received_us: int) -> int:
    told = meta.get("lastUpdated")
    return _instant(told) if isinstance(told, str) else received_us


def _instant(text: str) -> int:
    try:
        return parse_instant(text)
    except ValueError:
        raise _invalid("meta.lastUpdated is no instant") from None


def _invalid(message: str, remedy: str = "Send valid FHIR R4 JSON.") -> Incorrect:
    return Incorrect("fhir-invalid", message, remedy=remedy)
