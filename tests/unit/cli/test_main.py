"""The command's frame: lazy, one place for errors, every command helped by an example."""

from __future__ import annotations

import ast
import json
import os
import pkgutil
import subprocess
import sys
import types

import click
import pytest

import bridge.cli.commands
from bridge import errors
from bridge.cli import main
from bridge.cli.errors import EXIT_CODES, render, unexpected
from bridge.cli.invocation import json_option
from bridge.cli.main import COMMANDS, run
from bridge.cli.reference import commands
from bridge.errors import BridgeError, Category, Incorrect, Where

ALL = {name: (command, text) for name, command, text in commands()}


@pytest.fixture
def does(monkeypatch):
    """Lets the command ``odd`` call the given function."""

    def does(function):
        @click.command()
        @json_option
        def command():
            return function()

        monkeypatch.setattr(main, "COMMANDS", {"odd": "Does something odd."})
        monkeypatch.setattr(main, "import_module", lambda _: types.SimpleNamespace(command=command))

    return does


def raising(error):
    def function():
        raise error

    return function


def test_table_and_files_agree():
    """Every file of the commands package is one line of the table, and the other way round."""
    files = {module.name.replace("_", "-") for module in pkgutil.iter_modules(bridge.cli.commands.__path__)}

    assert set(COMMANDS) == files


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_an_example(name):
    """The help says what the command does and shows one call of it; every option says what it is for."""
    command, text = ALL[name]

    assert "Example:" in text
    assert any("$ " in line and "hiebridge" in line and name.split()[-1] in line for line in text.splitlines())
    assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name):
    """The summary in the list of commands is the first sentence of the command's own help."""
    first = (ALL[f"hiebridge {name}"][0].help or "").split("\n\n")[0].replace("\n", " ")

    assert COMMANDS[name].rstrip(".") in first


@pytest.mark.parametrize("category", Category)
def test_each_category_has_its_exit_code(does, capsys, category):
    """One closed mapping: the code tells a script what kind of thing went wrong."""
    error = next(c for c in BridgeError.__subclasses__() if c.category is category)
    does(raising(error("some-cause", "it is so", remedy="Do that.")))

    assert run(["odd"]) == EXIT_CODES[category]
    assert capsys.readouterr().err == "Error: it is so [some-cause] Do that.\n"


def test_exit_codes_are_frozen():
    """Scripts stand on them."""
    assert {category.value: code for category, code in EXIT_CODES.items()} == {
        "incorrect": 2,
        "forbidden": 3,
        "not-found": 4,
        "conflict": 5,
        "busy": 6,
        "unavailable": 7,
        "unsupported": 8,
        "fault": 9,
    }


def test_with_json_errors_are_json(does, capsys):
    """A program that reads the answer reads the error too, and standard output stays clean."""
    does(raising(Incorrect("some-cause", "it is so", remedy="Do that.", where=Where("a.yaml", 1, 2))))

    assert run(["odd", "--json"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert json.loads(err) == {
        "error": {
            "category": "incorrect",
            "code": "some-cause",
            "message": "it is so",
            "remedy": "Do that.",
            "where": "a.yaml:1:2",
        }
    }


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_was_not_foreseen_shows_no_values(does, capsys, flags):
    """A foreign exception's text, which may hold values of a message, reaches neither terminal nor log (P7)."""
    does(raising(RuntimeError("Zaphod-Beeblebrox")))

    assert run(["odd", *flags]) == 9
    out, err = capsys.readouterr()
    assert "Zaphod" not in out + err
    assert "RuntimeError" in err


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_commands_answer_is_its_exit_code(does, result, code):
    """A check that found something answers 1; a command that answers nothing is done."""
    does(lambda: result)

    assert run(["odd"]) == code


def test_an_interrupt_ends_with_its_own_code(does):
    """Ctrl-C is neither done nor wrong."""
    does(raising(KeyboardInterrupt()))

    assert run(["odd"]) == 130


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["config", "nonsense"], ["--nonsense"], ["config", "check", "--x"]]
)
def test_wrong_usage_is_incorrect(capsys, arguments):
    """Unknown commands and options exit as incorrect input, and point to the help."""
    assert run(arguments) == 2
    assert "--help" in capsys.readouterr().err


def test_help_imports_no_command():
    """The list of commands starts fast: no room, no adapter, no command is imported for it."""
    code = (
        "import sys; from bridge.cli.main import run; code = run(['--help'])\n"
        "heavy = ('fastapi', 'sqlalchemy', 'web3', 'kafka', 'joserfc', 'bridge.cli.commands.', 'adapters.')\n"
        "print([m for m in sys.modules if m.startswith(heavy)], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ast.literal_eval(done.stderr.strip()) == []
    assert "Commands:" in done.stdout


def test_a_reader_who_has_enough_stops_nothing():
    """``hiebridge config schema | head -1`` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from bridge.cli.main import main; main()", "config", "schema"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)

    assert (done.returncode, done.stderr) == (1, "")


def test_every_category_is_raised_by_a_class():
    """The closed set of errors covers the closed set of categories, once each."""
    classes = [c.category for c in BridgeError.__subclasses__() if c.__module__ == errors.__name__]

    assert sorted(classes) == sorted(Category)


def test_errors_of_one_kind_read_alike():
    """An unexpected error tells what to do, like any other."""
    assert render(unexpected(KeyError("x")), as_json=False) == (
        "Error: something that was not foreseen went wrong (KeyError) [unexpected] "
        "Report it with the log line that says where."
    )
