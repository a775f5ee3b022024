"""A real FHIR R4 server: HAPI FHIR's JPA server over H2 in memory, from the folder of foreign tools beside the project.

It takes 15 to 60 s to start and 1.2 GiB, so the suites that need it bear the marker ``long``. The tools are no part of the project;
``HIEBRIDGE_REFERENCE_TOOLS`` names their folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.services.process import (
    ROOT,
    Server,
    ServiceUnavailable,
    cache,
    free_port,
    install_once,
    program,
    run,
    scratch,
)


class Hapi(Server):
    """A running server; ``base`` is its API's address. It forgets everything when it stops."""

    def __init__(self, installed: Path, directory: Path) -> None:
        port = free_port()
        self.base = f"http://127.0.0.1:{port}/fhir"
        super().__init__(
            [
                program("java", "a JDK of version 17 or later runs the server"),
                "-Xmx1500m",
                f"-Dport={port}",
                "-cp",
                f"{installed}/upstream-fhir-1.jar:{installed}/lib/*",
                "UpstreamFhir",
            ],
            directory,
            lambda said: "READY" in said,
            ready_seconds=180,
        )


def ensure() -> Path:
    """Builds the server into the cache once and answers its folder.

    Raises:
        ServiceUnavailable: the tools, Java or Maven are missing, or it can't be built.
    """
    sources = (
        Path(os.environ.get("HIEBRIDGE_REFERENCE_TOOLS", ROOT.parent / "shared" / "tools")) / "fhir" / "fhir-server"
    )
    if not sources.is_dir():
        raise ServiceUnavailable(
            "no sources of a FHIR server: set HIEBRIDGE_REFERENCE_TOOLS to the folder of foreign tools"
        )
    what = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources.rglob("*")) if path.is_file()))
    return install_once(cache() / f"hapi-{what.hexdigest()[:12]}", lambda fresh: _build(sources, fresh))


@contextlib.contextmanager
def start() -> Iterator[Hapi]:
    """A fresh server for the length of the ``with``.

    Raises:
        ServiceUnavailable: it can't be built or does not start.
    """
    installed = ensure()
    with scratch("hapi") as directory:
        server = Hapi(installed, directory)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _build(sources: Path, fresh: Path) -> None:
    maven = program("mvn", "Maven builds the server")
    with scratch("hapi-build") as copied:
        project = copied / "project"
        shutil.copytree(sources, project, copy_function=shutil.copyfile)
        for folder in (project, *(path for path in project.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        run([maven, "-B", "-q", "-f", str(project / "pom.xml"), "package"])
        shutil.copytree(project / "target" / "lib", fresh / "lib")
        shutil.copy(project / "target" / "upstream-fhir-1.jar", fresh)
