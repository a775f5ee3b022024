"""What the demonstration runs for its viewer: this program, curl, Python. Each call is shown as it could be typed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bridge.cli.demo.console import Console, StepFailed
from bridge.fhir.json import loads

_TIMEOUT_SECONDS: Final = 60
# -P: a folder called `bridge` where the viewer happens to be is none of ours.
PROGRAM: Final = (sys.executable, "-P", "-c", "from bridge.cli.main import main; main()")


def own_environment() -> dict[str, str]:
    """The environment without what would override the demonstration's configuration, or send loopback to a proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HIEBRIDGE")}
    return kept | {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}


@dataclass(frozen=True, slots=True)
class Output:
    """What a program said."""

    code: int
    out: str = field(repr=False)
    err: str = field(repr=False)

    @property
    def lines(self) -> list[str]:
        """What it printed, standard output first."""
        return [*self.out.splitlines(), *self.err.splitlines()]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer.

    Attributes:
        headers: in order, names in lower case.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body.

        Raises:
            Incorrect: it is no JSON.
        """
        return loads(self.body)


@dataclass(frozen=True, slots=True)
class Tools:
    """Runs and shows.

    Attributes:
        console: where calls are shown.
        config: the demonstration's configuration file.
        curl: path of curl; None = the program asks by itself.
    """

    console: Console
    config: Path
    curl: str | None = field(default_factory=lambda: shutil.which("curl"))

    def hiebridge(self, *arguments: str, assigned: str = "", folder: Path | None = None) -> Output:
        """Runs a command of this program in a process of its own, and shows it.

        Args:
            arguments: after the configuration.
            assigned: name of the shell variable that takes what it prints, for the viewer.
            folder: run it there, without the configuration.
        """
        given = list(arguments) if folder else ["--config", str(self.config), *arguments]
        typed = shlex.join(["hiebridge", *given])
        place = f"cd {shlex.quote(str(folder))} && " if folder else ""
        self.console.command(f"{assigned}=$({typed})" if assigned else place + typed)
        return self._run([*PROGRAM, *given], folder)

    def python(self, script: str) -> Output:
        """Runs some Python in a process of its own, and shows it; ``script`` holds nothing that a shell would expand."""
        self.console.command(f'python -c "{script}"')
        return self._run([sys.executable, "-P", "-c", script])

    def request(
        self, url: str, token: str = "", *, name: str = "", body: str | None = None, show: bool = True
    ) -> Answer:
        """Asks over HTTP, by curl where there is one.

        Args:
            url: with its query.
            token: bearer token; '' = none.
            name: of the shell variable that holds the token, for the viewer.
            body: FHIR JSON to post; None = get.
            show: print it as one could type it.
        """
        posting = ["-H", "Content-Type: application/fhir+json", "-d", body] if body is not None else []

        def arguments(bearer: str) -> list[str]:
            return ["curl", "-si", *(["-H", f"Authorization: Bearer {bearer}"] if bearer else []), *posting, url]

        if show:
            self.console.command(_typed(arguments(f"${name}" if token else "")))
        if self.curl is None:
            if show:
                self.console.answer(["(there is no curl on this machine: the program asks by itself)"])
            return _ask(url, token, body)
        done = subprocess.run(  # noqa: S603 - curl with arguments of our own
            [self.curl, *arguments(token)[1:]],
            capture_output=True,
            env=own_environment(),
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise StepFailed("an answer from the bridge", f"curl ended with exit code {done.returncode}")
        return _parsed(done.stdout)

    @staticmethod
    def _run(arguments: Sequence[str], folder: Path | None = None) -> Output:
        done = subprocess.run(  # noqa: S603 - this interpreter with arguments of our own
            arguments,
            capture_output=True,
            cwd=folder,
            env=own_environment(),
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        return Output(done.returncode, done.stdout, done.stderr)


def _typed(arguments: Sequence[str]) -> str:
    """A command line in which ``$NAME`` is still filled in by the shell."""
    return " ".join(f'"{argument}"' if "$" in argument else shlex.quote(argument) for argument in arguments)


def _parsed(answer: bytes) -> Answer:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [line.partition(":") for line in lines]
    return Answer(int(status.split()[1]), tuple((n.strip().lower(), v.strip()) for n, _, v in headers), body)


def _ask(url: str, token: str, body: str | None) -> Answer:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    headers |= {"Content-Type": "application/fhir+json"} if body is not None else {}
    request = urllib.request.Request(url, body.encode() if body is not None else None, headers)  # noqa: S310 - loopback
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return Answer(answer.status, _lower(answer.headers.items()), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers.items()), error.read())
    except OSError as error:
        raise StepFailed("an answer from the bridge", type(error).__name__) from None


def _lower(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in headers)
