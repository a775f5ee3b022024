"""Real servers as child processes: own port, own directory, a bounded wait, ended by process id, never outliving us."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

INSTALL = Path(__file__).resolve().parent / "install"
ROOT = INSTALL.parent.parent.parent

# The kernel sends the parent-death signal when the *thread* that started a child ends, so one thread that lives as long
# as the interpreter starts them all: a test may then restart a server from a thread of its own.
_launcher = ThreadPoolExecutor(1, thread_name_prefix="launcher")


class ServiceUnavailable(Exception):  # noqa: N818 - the state of the service, as an error category names it
    """A real server can't be had on this machine; the text says why and what would help."""


class User(NamedTuple):
    """Another user whom root starts a server as."""

    uid: int
    gid: int


def cache() -> Path:
    """The folder outside the tree in which downloads are kept between runs."""
    return Path(os.environ.get("HIEBRIDGE_CACHE") or Path.home() / ".cache" / "hie-bridge")


def program(name: str, why: str) -> str:
    """The path of an installed program.

    Raises:
        ServiceUnavailable: it is not on PATH.
    """
    path = shutil.which(name)
    if path is None:
        raise ServiceUnavailable(f"{name} is not on PATH; {why}")
    return path


def run(command: Sequence[str], *, timeout_seconds: float = 600, **options: object) -> str:
    """Runs a command to its end and answers its standard output.

    Raises:
        ServiceUnavailable: it failed or took too long; the text holds the first lines of what it said.
    """
    try:
        done = subprocess.run(command, timeout=timeout_seconds, capture_output=True, text=True, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceUnavailable(f"{command[0]}: {error}") from error
    if done.returncode:
        said = "\n".join((done.stderr + done.stdout).strip().splitlines()[:20])
        raise ServiceUnavailable(f"{' '.join(command[:4])} … ended with {done.returncode}: {said}")
    return done.stdout


def install_once(directory: Path, build: Callable[[Path], None]) -> Path:
    """Fills ``directory`` by ``build(an empty sibling)`` unless an earlier run did; whole or not at all, under a lock."""
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f".{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.is_dir():
            return directory
        fresh = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        try:
            build(fresh)
            fresh.chmod(0o755)
            fresh.rename(directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return directory


def free_port() -> int:
    """A TCP port that nothing holds, below the range from which the kernel takes ports for outgoing connections.

    So a stopped server finds its port still free when it starts again.
    """
    for _ in range(200):
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServiceUnavailable("no free TCP port between 15000 and 32000 on loopback")


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A directory with a short path that other users can enter; removed at the end."""
    path = Path(tempfile.mkdtemp(prefix=f"hie-{name}-", dir=_enterable()))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _enterable() -> str:
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(candidate).resolve()
        everyone = all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents) if parent.exists())
        if everyone and os.access(path, os.W_OK) and len(candidate) < 60:
            return candidate
    raise ServiceUnavailable("no temporary directory that every user can enter; set TMPDIR to one with a short path")


class Server:
    """One server process that can be stopped, killed, frozen and started again on the same directory and port.

    Args:
        command: what to run.
        directory: working directory; the log is ``server.log`` in it.
        ready: answers whether the server serves, given what it has said since this start.
        environment: added to ours.
        stop_signal: the one that ends it in good order.
        as_user: the user to become (we are root).
        ready_seconds: how long a start may take.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        ready: Callable[[str], bool],
        *,
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        as_user: User | None = None,
        ready_seconds: float = 60,
    ) -> None:
        self.command = tuple(command)
        self.directory = directory
        self.log = directory / "server.log"
        self._ready = ready
        self._environment = dict(environment or {})
        self._stop_signal = stop_signal
        self._as_user = as_user
        self._ready_seconds = ready_seconds
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's own process id; it must be running."""
        if self._child is None:
            raise RuntimeError(f"{self.command[0]} is not running")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process exists (a frozen one does)."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Starts it and returns once it serves.

        Raises:
            ServiceUnavailable: it ended or did not get ready in time; the text holds the end of its log.
        """
        if self.running:
            return
        with self.log.open("ab") as log:
            offset = log.tell()
            self._child = _launcher.submit(
                subprocess.Popen,
                [*_wrapper(self._stop_signal, self._as_user), *self.command],
                cwd=self.directory,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for us; we then end our servers
            ).result()
        deadline = time.monotonic() + self._ready_seconds
        while not self._ready(said := self._said(offset)):
            ended = self._child.poll()
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                cause = "was not ready in time" if ended is None else f"ended with {ended}"
                raise ServiceUnavailable(f"{self.command[0]} {cause}: " + "\n".join(said.splitlines()[-12:]))
            time.sleep(0.02)

    def stop(self, timeout_seconds: float = 20) -> None:
        """Ends it in good order, or by SIGKILL after ``timeout_seconds``."""
        if self._child is None:
            return
        if self._child.poll() is None:
            self.resume()
            self._child.send_signal(self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout_seconds)
        self.kill()

    def kill(self) -> None:
        """``kill -9`` of the server and its children, as a power cut would (minus the page cache)."""
        if self._child is None:
            return
        family = self._signal_all(signal.SIGKILL)
        self._child.wait()
        self._child = None
        wait_gone(*family)

    def restart(self) -> None:
        """Ends it in good order if it runs, and starts it on the same directory and port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP to the server and its children: it holds its connections and answers nothing."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to the server and its children."""
        self._signal_all(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """:meth:`pause`, and :meth:`resume` at the end."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def log_text(self) -> str:
        """All that the server has written to its output so far."""
        return self._said(0)

    def _said(self, offset: int) -> str:
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read().decode("utf-8", "replace")

    def _signal_all(self, what: signal.Signals) -> list[int]:
        if self._child is None or self._child.poll() is not None:
            return []
        family = [self._child.pid, *_descendants(self._child.pid)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)
        return family


def as_user(user: User | None) -> list[str]:
    """The command words that run what follows as ``user`` (none for None)."""
    if user is None:
        return []
    setpriv = program("setpriv", "root needs it to start a server as another user")
    return [setpriv, "--reuid", str(user.uid), "--regid", str(user.gid), "--clear-groups", "--"]


def wait_gone(*pids: int, timeout_seconds: float = 5) -> None:
    """Returns once no process has one of these ids, or raises TimeoutError."""
    deadline = time.monotonic() + timeout_seconds
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still there: {pids}")
        time.sleep(0.005)


def _wrapper(stop_signal: signal.Signals, user: User | None) -> list[str]:
    """``setpriv`` becomes the server itself, so the process id stays; where it is missing, servers may outlive a killed run."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return as_user(user)
    words = as_user(user) or [setpriv, "--"]
    return [*words[:-1], "--pdeathsig", stop_signal.name.removeprefix("SIG"), "--"]


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if stat := _stat(entry.name):
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def _alive(pid: int) -> bool:
    stat = _stat(str(pid))
    return bool(stat) and stat[0] not in "ZX"


def _stat(pid: str) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on (proc(5)); empty where there is no such process."""
    try:
        return Path("/proc", pid, "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
