"""Makes everything that follows from the official guide: ``python -m tools.guide FOLDER``, its folder of CSV files.

That is ``mappings/hl7v2/guide`` and the reference page that counts what is followed and lists what is left.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools.guide.coverage import page
from tools.guide.importer import HERE, make

ROOT = HERE.parents[1] / "mappings" / "hl7v2" / "guide"
PAGE = HERE.parents[1] / "docs" / "reference" / "official-guide.md"


def main(arguments: list[str]) -> int:
    """Writes the files; with ``--left`` lists the rows that became no rule instead."""
    folders = [one for one in arguments if not one.startswith("--")]
    if len(folders) != 1:
        print("usage: python -m tools.guide [--left] FOLDER", file=sys.stderr)  # noqa: T201 - the command's output
        return 2
    imported = make(Path(folders[0]))
    if "--left" in arguments:
        for name, made in imported.maps.items():
            for row, why in made.left:
                print(f"{name} line {row.number} {row.place} -> {row.target}: {why}")  # noqa: T201 - the command's output
        return 0
    for path in ROOT.glob("*/*.yaml"):
        if f"{path.parent.name}/{path.name}" not in imported.files:
            path.unlink()
    for name, text in imported.files.items():
        target = ROOT / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    PAGE.write_text(page(Path(folders[0])), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
