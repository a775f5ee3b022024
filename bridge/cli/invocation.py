"""What every command is given: where the configuration is, and how to answer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from bridge.config.load import load_settings
from bridge.config.settings import Settings
from bridge.telemetry.logs import configure_logging

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Invocation:
    """One run of the program.

    Attributes:
        config: the configuration file.
        as_json: whether a program reads the answer.
        log_level: as given on the command line; None = as configured.
        environ: the environment.
    """

    config: Path = Path("hiebridge.yaml")
    as_json: bool = False
    log_level: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _settings: Settings | None = None

    def settings(self) -> Settings:
        """The configuration, loaded once; its log level takes effect.

        Raises:
            Incorrect: see :func:`bridge.config.load.load_settings`.
        """
        if self._settings is None:
            self._settings = load_settings(self.config, self.environ)
            configure_logging(self.log_level or self._settings.telemetry.log_level)
        return self._settings

    def answer(self, data: Any, text: str) -> None:
        """Prints ``data`` as JSON where a program reads it, else ``text``, on standard output."""
        click.echo(json.dumps(data, ensure_ascii=False, indent=2) if self.as_json else text)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def _read_by_program(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Invocation).as_json = True


def json_option(command: F) -> F:
    """Adds ``--json`` to a command; errors then are JSON too, on standard error."""
    option = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_read_by_program,
        help="Answer with JSON, errors included.",
    )
    return option(command)
