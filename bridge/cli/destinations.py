"""Where a feed of messages goes: standard output, a folder, or an intake named by its address."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, Self
from urllib.parse import SplitResult, urlsplit

import click
from pydantic import ValidationError

from bridge.cli.files import write_bytes
from bridge.config.adapters import INTAKES, load_adapter
from bridge.errors import BridgeError, Incorrect
from bridge.pipeline.ports import ContentKind, Intake, RawMessage
from bridge.synth.feed import SynthMessage

_ROUTE: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,62})=(.+)", re.DOTALL)
_UNDER_WAY: Final = 500


class Destination(Protocol):
    """Takes messages one after the other."""

    async def put(self, message: SynthMessage) -> None:
        """Returns once ``message`` is there; Incorrect where it is refused for good."""
        ...

    async def close(self) -> None:
        """Lets go of files and connections."""
        ...


class Printed:
    """Standard output: the bytes of each message, and a line end."""

    async def put(self, message: SynthMessage) -> None:
        """See :class:`Destination`."""
        click.echo(message.content)

    async def close(self) -> None:
        """See :class:`Destination`."""


class Folder:
    """A folder with one folder a site, and in it one file a message, named by its number in the feed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: set[str] = set()
        self._number = 0

    async def put(self, message: SynthMessage) -> None:
        """See :class:`Destination`."""
        folder = self._path / message.site
        if message.site not in self._made:
            make_folder(folder)
            self._made.add(message.site)
        self._number += 1
        write_bytes(folder / f"{self._number:09d}.hl7", message.content)

    async def close(self) -> None:
        """See :class:`Destination`."""


class Sent:
    """An intake of an installed adapter."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def put(self, message: SynthMessage) -> None:
        """See :class:`Destination`."""
        await self._intake.accept(
            RawMessage("synth", message.content, ContentKind.HL7V2, message.key, message.event_time)
        )

    async def close(self) -> None:
        """See :class:`Destination`."""
        await asyncio.to_thread(self._intake.close)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it. Raises Incorrect ``file-unwritable``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Incorrect("file-unwritable", f"{path} can't be made ({type(error).__name__})") from None


def open_destination(address: str) -> Destination:
    """The destination of an address: ``kafka://HOST:PORT/TOPIC``, ``mllp://HOST:PORT``, or a folder.

    Raises:
        Incorrect: ``destination-malformed``, ``adapter-unknown``.
    """
    return Sent(open_intake(address, "synth")) if "://" in address else Folder(Path(address))


def open_intake(address: str, name: str, more: Mapping[str, Any] = MappingProxyType({})) -> Intake:
    """The intake of an address: ``kafka://HOST:PORT/TOPIC`` or ``mllp://HOST:PORT``.

    Args:
        address: where it is.
        name: what it is called here.
        more: further settings of its adapter.

    Raises:
        Incorrect: ``destination-malformed``, ``adapter-unknown``, and as the adapter refuses its settings.
    """
    try:
        parts = urlsplit(address)
        settings = _SETTINGS[parts.scheme](parts) if parts.scheme in _SETTINGS else None
    except ValueError:
        settings = None
    if settings is None:
        raise _malformed(address)
    spec = load_adapter(INTAKES, parts.scheme)
    try:
        intake: Intake = spec.build(name, spec.settings.model_validate({**settings, **more}))
    except ValidationError:
        raise _malformed(address) from None
    return intake


def _kafka(parts: SplitResult) -> dict[str, Any] | None:
    topic = parts.path.strip("/")
    return {"bootstrap_servers": parts.netloc.split(","), "topic": topic} if parts.netloc and topic else None


def _mllp(parts: SplitResult) -> dict[str, Any] | None:
    return {"host": parts.hostname, "port": parts.port} if parts.hostname and parts.port else None


_SETTINGS: Final = {"kafka": _kafka, "mllp": _mllp}


def _malformed(address: str) -> Incorrect:
    return Incorrect(
        "destination-malformed",
        f"{address} is no destination",
        remedy="Write kafka://HOST:PORT/TOPIC, mllp://HOST:PORT, or a folder.",
    )


@dataclass(slots=True)
class Delivery:
    """What was sent, by site, and what the receivers refused for good."""

    sent: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    left_out: int = 0


class Router:
    """Sends each message to the destination of its site, in the order of the feed.

    Args:
        routes: ``[SITE=]ADDRESS``; one without a site is for all sites that have none of their own.
        default: where messages go if there is no route at all.
    """

    def __init__(self, routes: Iterable[str], default: Destination) -> None:
        addresses: dict[str, str] = {}
        for route in routes:
            match = _ROUTE.fullmatch(route)
            site, address = (match[1], match[2]) if match else ("", route)
            if site in addresses:
                raise Incorrect("destination-twice", f"two destinations are given for {site or 'all sites'}")
            addresses[site] = address
        opened = {address: open_destination(address) for address in addresses.values()}
        self._destinations: Mapping[str, Destination] = {
            site: opened[address] for site, address in addresses.items()
        } or {"": default}
        self.delivery = Delivery()

    @property
    def sites(self) -> frozenset[str]:
        """Sites that have a destination of their own."""
        return frozenset(self._destinations) - {""}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        async with AsyncExitStack() as stack:
            for destination in {id(each): each for each in self._destinations.values()}.values():
                stack.push_async_callback(destination.close)

    async def send(self, messages: Iterable[SynthMessage], rate: float | None) -> None:
        """Sends all ``messages``, at most ``rate`` a second.

        Raises:
            Unavailable, Busy: a receiver does not answer; what was sent before is there.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        under_way: set[asyncio.Task[None]] = set()
        try:
            for number, message in enumerate(messages):
                if rate is not None and (wait := started + number / rate - loop.time()) > 0:
                    await asyncio.sleep(wait)
                destination = self._destinations.get(message.site) or self._destinations.get("")
                if destination is None:
                    self.delivery.left_out += 1
                    continue
                # Tasks run in the order they were made up to their first wait, which is where intakes take their turn.
                under_way.add(asyncio.create_task(self._put(destination, message)))
                if len(under_way) >= _UNDER_WAY:
                    under_way = await _some_done(under_way)
            while under_way:
                under_way = await _some_done(under_way)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _put(self, destination: Destination, message: SynthMessage) -> None:
        try:
            await destination.put(message)
        except BridgeError as error:
            if not isinstance(error, Incorrect) or isinstance(destination, Folder):
                raise
            self.delivery.refused += 1
        else:
            sent = self.delivery.sent
            sent[message.site] = sent.get(message.site, 0) + 1


async def _some_done(under_way: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    done, rest = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return rest
