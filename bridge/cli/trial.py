"""Sites for trying a conversion without a configuration: by name, by file, or made from the message itself."""

from __future__ import annotations

from pathlib import Path

from bridge.config.checking import check
from bridge.config.document import read_document
from bridge.config.load import mappings_root
from bridge.config.site import Site
from bridge.errors import NotFound
from bridge.hl7v2.message import Message

_SYSTEM = "urn:hie-bridge:trial:"
_UNNAMED = "unnamed"


def named_site(name: str) -> Site:
    """The site of a file, or of a file in the built-in mappings by the site's name.

    Raises:
        ConfigurationInvalid: the file is no site file; lists every problem.
        NotFound: ``site-absent``; names those that are there.
    """
    path = Path(name)
    if not path.is_file():
        folder = mappings_root() / "sites"
        path = folder / f"{name}.yaml"
        if path.parent != folder or not path.is_file():
            known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            raise NotFound("site-absent", f"there is no site file {name}", remedy=f"Name a file, or one of: {known}.")
    return check(Site, read_document(path.absolute()))


def trial_site(message: Message | None = None) -> Site:
    """A site that may say everything: each authority of the message's patient identifiers names records of its own."""
    names = dict.fromkeys([*(_authorities(message) if message is not None else ()), _UNNAMED])
    authorities = [
        {"name": name, "system": f"{_SYSTEM}{number}", "use": "record", "default": name == _UNNAMED}
        for number, name in enumerate(names, 1)
    ]
    return Site.model_validate(
        {
            "site": "trial",
            "organization": {"name": "Trial", "identifier": {"system": f"{_SYSTEM}organizations", "value": "trial"}},
            "authorities": authorities,
            "events": {"allow": []},
        }
    )


def _authorities(message: Message) -> list[str]:
    named = [
        segment.get(number, 4, 1, repetition)
        for segment_name, number in (("PID", 3), ("MRG", 1))
        for segment in message.all(segment_name)
        for repetition in range(1, len(segment.repetitions(number)) + 1)
    ]
    return [name for name in named if isinstance(name, str) and name]
