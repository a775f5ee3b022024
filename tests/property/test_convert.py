"""Whatever stands in a message, conversion answers or refuses by name, and always in the same way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import Incorrect
from bridge.fhir.json import dumps
from bridge.hl7v2.message import parse, valued_elements
from bridge.mapping.bundle import explain_lines, to_bundle
from bridge.mapping.convert import convert
from tests.unit.mapping.messages import rules, site

pieces = st.sampled_from(
    ["^", "~", "&", "|", '""', "\\", "\\F\\", "\\X41\\", "A", "1", "-1", "20260301", "PID", "é", " ", ":", "<", "\x00"]
)
texts = st.lists(pieces, max_size=6).map("".join)
names = st.sampled_from(
    ["EVN", "PID", "PD1", "NK1", "PV1", "PV2", "ORC", "OBR", "OBX", "NTE", "SPM", "TQ1", "MRG", "PRT", "ROL", "ZZZ", "CON", "DG1", "MSA"]
)  # fmt: skip
segments = st.tuples(names, st.lists(texts, max_size=45)).map(lambda found: "|".join([found[0], *found[1]]))
events = st.sampled_from(["ADT^A01", "ADT^A03", "ADT^A08", "ADT^A11", "ADT^A13", "ADT^A40", "ORU^R01", "ORU^R99", ""])


@settings(max_examples=400)
@given(events, st.booleans(), st.lists(segments, max_size=8))
def test_anything_is_converted_or_refused_by_name(event, identified, lines):
    """Any fields in any segments in any order: a conversion whose ledger adds up and whose Bundle is JSON, or our error."""
    head = [f"MSH|^~\\&|A|F|||20260301120000||{event}|1|P|2.5"]
    if identified:
        head.append("PID|||100^^^NORTH^MR")
    message = parse("\r".join([*head, *lines]).encode())
    try:
        conversion = convert(message, site(), rules())
    except Incorrect:
        return
    explained = convert(message, site(), rules(), explain=True)

    assert conversion.operations == explained.operations
    assert (conversion.mapped, conversion.dropped) == (explained.mapped, explained.dropped)
    valued = sum(1 for segment in message.segments for _ in valued_elements(segment))
    assert len(explained.ledger) == valued == conversion.mapped + conversion.dropped + conversion.unmapped
    assert dumps(to_bundle(conversion))
    assert list(explain_lines(explained))
