"""Messages in files and folders, converted one after the other: what ``convert``, ``coverage`` and their like walk over."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from bridge.cli.errors import unexpected
from bridge.cli.files import STANDARD_INPUT, read_bytes
from bridge.cli.trial import named_site, trial_site
from bridge.config.site import Site
from bridge.errors import BridgeError, Incorrect
from bridge.fhir.json import loads
from bridge.hl7v2.batch import Finding, read_batch
from bridge.hl7v2.message import Message, parse
from bridge.mapping.convert import convert
from bridge.mapping.fhir_input import convert_fhir
from bridge.mapping.operations import Conversion
from bridge.mapping.rules import Rules
from bridge.pipeline.ports import ContentKind
from bridge.pipeline.prepare import detect, joined
from bridge.telemetry.logs import log_uncaught

Command = Callable[..., Any]

_STANDARD_INPUT_NAME: Final = "standard-input"


@dataclass(frozen=True, slots=True)
class File:
    """A file of messages.

    Attributes:
        path: where it is.
        feed: the name of the folder or file that the caller gave.
        name: how it is called in reports: its path below that folder.
    """

    path: Path
    feed: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a file.

    Attributes:
        file: the file it stands in.
        number: its place there, from 1.
        of: how many messages the file holds.
        kind: HL7 v2 or FHIR JSON.
        content: its bytes.
    """

    file: File
    number: int
    of: int
    kind: ContentKind
    content: bytes

    @property
    def name(self) -> str:
        """``adt.hl7``, or ``adt.hl7#2`` where the file holds several."""
        return self.file.name if self.of == 1 else f"{self.file.name}#{self.number}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds: its messages, and where it is not what its batch envelopes say; or why it can't be read."""

    file: File
    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...] = ()
    error: BridgeError | None = None


def files(paths: Sequence[Path], pattern: str = "*") -> Iterator[File]:
    """Every file that is named, and every file below the folders that are; hidden ones in folders are passed over.

    Args:
        paths: files, folders, or ``-`` for standard input.
        pattern: which files of folders to take, by name.

    Raises:
        Incorrect: ``file-unreadable``, nothing stands at a path.
    """
    for path in paths:
        if path == STANDARD_INPUT:
            yield File(path, _STANDARD_INPUT_NAME, _STANDARD_INPUT_NAME)
        elif path.is_dir():
            label = path.name or path.resolve().name or str(path)
            prefix = f"{label}/" if len(paths) > 1 else ""
            for found in sorted(path.rglob(pattern)):
                within = found.relative_to(path)
                if not any(part.startswith(".") for part in within.parts) and found.is_file():
                    yield File(found, label, prefix + within.as_posix())
        elif path.exists():
            yield File(path, path.name, path.name)
        else:
            raise Incorrect("file-unreadable", f"there is no file or folder {path}", remedy="Correct the path.")


def contents(file: File) -> Contents:
    """The messages of a file, taken out of batches; a file that can't be read, or holds nothing, says so."""
    try:
        content = read_bytes(file.path)
        kind = detect(content)
        if kind is ContentKind.FHIR_JSON:
            return Contents(file, (Entry(file, 1, 1, kind, content),))
        batch = read_batch(content)
    except BridgeError as error:
        return Contents(file, (), error=error)
    count = len(batch.messages)
    if not count:
        empty = Incorrect("file-without-message", "the file holds no message", remedy="Leave it out.")
        return Contents(file, (), batch.findings, error=empty)
    entries = tuple(Entry(file, number, count, kind, one) for number, one in enumerate(batch.messages, 1))
    return Contents(file, entries, batch.findings)


class Converter:
    """Converts messages by one set of rules, at one site or at trial sites made for each message.

    Args:
        rules: compiled mappings.
        site: None = every authority of a message is taken for one that names records.
        explain: whether conversions carry the ledger and the rules behind each element.
        apart: each message is taken for one of a site of its own name: nothing is remembered from one to the next.
    """

    def __init__(self, rules: Rules, site: Site | None, *, explain: bool = False, apart: bool = False) -> None:
        self._rules = rules
        self._site = site
        self._explain = explain
        self._numbers = itertools.count(1) if apart else None

    def __call__(self, entry: Entry) -> tuple[Conversion, Site]:
        """What the message asks for, and the site that it was taken for.

        Raises:
            BridgeError: as the reader, :func:`bridge.mapping.convert.convert` and FHIR input refuse.
        """
        if entry.kind is ContentKind.FHIR_JSON:
            site = self._site or trial_site()
            return joined(convert_fhir(loads(entry.content), site, received_us=time.time_ns() // 1000)), site
        return self.message(self.read(entry))

    def read(self, entry: Entry) -> Message:
        """The message of an HL7 v2 entry, in the site's character set."""
        return parse(entry.content, charset=self._site.charset if self._site else None)

    def message(self, message: Message) -> tuple[Conversion, Site]:
        """As a call, for a message that has been read."""
        site = self._site or trial_site(message)
        if self._numbers is not None:
            site = site.model_copy(update={"site": f"{site.site}-{next(self._numbers)}"})
        return convert(message, site, self._rules, explain=self._explain), site

    def attempt(self, entry: Entry) -> tuple[Conversion, Site] | BridgeError:
        """As a call, with the refusal as an answer: one message harms no other, not even by a mistake of ours."""
        try:
            return self(entry)
        except BridgeError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever one message does to the code, the others go on
            log_uncaught(error)
            return unexpected(error)


def site_of(name: str | None) -> Site | None:
    """The site of ``--site``; None without one."""
    return named_site(name) if name else None


def corpus_options(command: Command) -> Command:
    """Adds ``--site``, ``--pattern`` and ``--mappings`` to a command that walks over messages."""
    options: Iterable[Callable[[Command], Command]] = (
        click.option("--site", "site_name", help="Site file, or name of one of the built-in sites."),
        click.option(
            "--pattern", default="*", show_default=True, metavar="GLOB", help="Which files of folders to take, by name."
        ),
        click.option(
            "--mappings",
            "overlays",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            multiple=True,
            help="Folder of mappings searched before the built-in ones; may be repeated.",
        ),
    )
    for option in reversed(tuple(options)):
        command = option(command)
    return command
