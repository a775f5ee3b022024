"""The demonstration's folder: configuration, keys, token issuer, an empty store that is marked as what it is."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from bridge.cli.development import create_issuer
from bridge.config.load import load_settings, mappings_root
from bridge.config.settings import Settings
from bridge.errors import Conflict, Incorrect
from bridge.keys.files import create_key_file
from bridge.store import marks
from bridge.store.database import open_database
from bridge.store.marks import Mark
from bridge.store.migrate import migrate

MADE_HERE: Final = ".made-by-hiebridge-demo"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A folder that is set up.

    Attributes:
        folder: where everything is.
        api_port: of the FHIR API.
        mllp_ports: by site.
    """

    folder: Path
    api_port: int
    mllp_ports: dict[str, int]

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "bridge.yaml"

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.folder / "store.db"

    @property
    def server(self) -> str:
        """Address of everything that is served over HTTP."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def fhir(self) -> str:
        """Base address of the FHIR API."""
        return f"{self.server}/fhir"

    def settings(self) -> Settings:
        """The configuration as the bridge reads it, without overrides from the environment."""
        return load_settings(self.config, {})


@contextmanager
def demonstration_folder(folder: Path) -> Iterator[Path]:
    """An empty folder, held by this process to the end of the block.

    Args:
        folder: to be made; one that an earlier demonstration made is made anew.

    Raises:
        Conflict: ``demo-folder-not-ours``, it is there and no demonstration made it; ``demo-running``, one is using it.
        Incorrect: ``demo-folder-unwritable``.
    """
    try:
        mark = _claimed(folder)
    except OSError as error:
        raise Incorrect(
            "demo-folder-unwritable",
            f"{folder} can't be made ({type(error).__name__})",
            remedy="Name another with --dir.",
        ) from None
    try:
        yield folder
    finally:
        os.close(mark)


def _claimed(folder: Path) -> int:
    """The open mark of an emptied folder; closing it lets go of the folder."""
    mark = folder / MADE_HERE
    if folder.exists() and not mark.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(
            "demo-folder-not-ours",
            f"{folder} is there, and no demonstration made it",
            remedy="Name a new folder with --dir.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(
            "demo-running",
            f"a demonstration is running in {folder}",
            remedy="Stop it, or name a new folder with --dir.",
        ) from None
    for item in folder.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        elif item != mark:
            item.unlink()
    return descriptor


def set_up(folder: Path, sites: tuple[str, ...]) -> Demonstration:
    """Writes configuration and keys, makes the store, marks it. The ports are free ones of this moment."""
    api_port, *ports = _free_ports(1 + len(sites))
    made = Demonstration(folder, api_port, dict(zip(sites, ports, strict=True)))
    template = Template(files("bridge.cli.demo").joinpath("bridge.yaml").read_text(encoding="utf-8"))
    names = {f"{site.replace('-', '_')}_port": port for site, port in made.mllp_ports.items()}
    text = template.substitute(names, api_port=api_port, sites=mappings_root().absolute() / "sites")
    made.config.write_text(text, encoding="utf-8")
    create_key_file(folder / "keys.json")
    create_issuer(folder / "development-issuer.json", folder / "development-issuer.jwks.json")
    url = made.settings().store.address().reveal()
    migrate(url)
    with open_database(url) as database, database.transaction() as txn:
        marks.put(txn, Mark.DEMONSTRATION)
    return made


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [bound.getsockname()[1] for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()
