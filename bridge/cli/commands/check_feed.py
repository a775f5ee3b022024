"""``hiebridge check-feed``: what a sender's messages break."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.corpus import Converter, contents, corpus_options, files, site_of
from bridge.cli.errors import CHECK_FAILED
from bridge.cli.feed_check import FeedCheck
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.config.load import mappings_root
from bridge.mapping.rules import load_rules


@click.command("check-feed")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH...")
@corpus_options
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    paths: tuple[Path, ...],
    site_name: str | None,
    pattern: str,
    overlays: tuple[Path, ...],
) -> int:
    """Check a sender's messages strictly, and tell what they break, how often and where.

    The bridge takes far more than the standard allows; this tells what it, or another system, has to put up with. Each
    message is held against HL7's definitions of its version: required and repeated elements, elements that the version
    does not have, data types and tables. Batches are held against their envelopes, bytes against the character
    set. With --site the site's file is held against the messages too: events and authorities that it does not list.

    Takes files and folders, and `-` for standard input; about 100 messages a second. Examples show file, event and
    segments, never values. Exit code 1 if there is an error; warnings (tables, what is not listed) give 0.

    \b
    Example:
      $ hiebridge check-feed feed/ --site queensbridge
    """  # noqa: D301 - click's mark
    converter = Converter(load_rules(mappings_root(), overlays), site_of(site_name))
    check = FeedCheck(converter, with_site=site_name is not None)
    for file in files(paths, pattern):
        check.add(contents(file))
    invocation.answer(check.described(), "\n".join(check.lines()))
    return CHECK_FAILED if check.errors else 0
