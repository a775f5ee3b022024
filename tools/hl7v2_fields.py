"""Writes ``bridge/hl7v2/fields.tsv`` from hl7apy's tables of all versions: ``python -m tools.hl7v2_fields``."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Final

TARGET: Final = Path(__file__).resolve().parent.parent / "bridge" / "hl7v2" / "fields.tsv"
HEAD: Final = """\
# How many fields the segments have, in the version that gives them most; made by tools/hl7v2_fields.py from hl7apy (2.1 to 2.8.2)
# and HL7 v2.9 chapters 2 to 10.
"""
VERSIONS: Final = ("2_1", "2_2", "2_3", "2_3_1", "2_4", "2_5", "2_5_1", "2_6", "2_7", "2_8", "2_8_1", "2_8_2")
# what 2.9 adds
LATER: Final = {"DG1": 26, "IN1": 55, "MSH": 28, "NTE": 9, "OBR": 55, "OBX": 33, "ORC": 38, "PRT": 25, "TXA": 28}
_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{2}")


def page() -> str:
    """The whole file."""
    counts: dict[str, int] = dict(LATER)
    for version in VERSIONS:
        for name, definition in import_module(f"hl7apy.v{version}.segments").SEGMENTS.items():
            if _NAME.fullmatch(name) and definition[0] == "sequence" and len(definition) > 1:
                numbers = [int(tail) for field in definition[1] if (tail := field[0].rpartition("_")[2]).isdigit()]
                counts[name] = max([counts.get(name, 0), *numbers])
    return HEAD + "".join(f"{name}\t{count}\n" for name, count in sorted(counts.items()) if count)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="ascii")
