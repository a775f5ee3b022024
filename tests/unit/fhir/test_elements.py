"""The elements of R4's types, as checks of mappings know them."""

from __future__ import annotations

from bridge.fhir.elements import Element, elements
from bridge.mapping.workbench.reading import field_counts
from tools import fhir_elements, hl7v2_fields


def test_the_file_of_elements_is_what_its_tool_writes():
    """Whoever changes the tool, or takes other models, runs ``python -m tools.fhir_elements``."""
    assert fhir_elements.TARGET.read_text(encoding="ascii") == fhir_elements.page()


def test_the_file_of_fields_is_what_its_tool_writes():
    """Whoever changes the tool runs ``python -m tools.hl7v2_fields``."""
    assert hl7v2_fields.TARGET.read_text(encoding="ascii") == hl7v2_fields.page()
    assert field_counts()["PID"] == 40


def test_elements_have_their_type_number_and_codes():
    """As the definition tables of R4 say (Patient, Observation, Timing.repeat)."""
    patient = elements()["Patient"]
    assert patient["gender"] == Element("code", False, False, frozenset({"male", "female", "other", "unknown"}))
    assert patient["contact"] == Element("PatientContact", True, False, frozenset())
    assert elements()["Observation"]["status"].required
    assert "valueAttachment" not in elements()["Observation"]
    assert elements()["TimingRepeat"]["count"].kind == "positiveInt"


def test_what_r4_does_not_have_is_not_there():
    """The models are those of R4B."""
    assert not [name for name in elements() if name.startswith(("SubscriptionTopic", "Citation", "NutritionProduct"))]
    assert not [
        (name, member)
        for name, members in elements().items()
        for member, element in members.items()
        if not element.primitive and element.kind not in elements() and element.kind not in ("Resource", "Element")
    ]
