"""Secrets by reference: literals refused, values read late and never shown."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from bridge.config.document import parse_document
from bridge.config.problems import ConfigurationInvalid
from bridge.config.secrets import SecretRef
from bridge.config.section import Section
from bridge.errors import Incorrect


class Adapter(BaseModel):
    """An adapter's settings with a secret, optional and in a list."""

    model_config = {"extra": "forbid"}
    password: SecretRef | None = None
    keys: tuple[SecretRef, ...] = ()


def section(text, base):
    return Section(parse_document(text, "bridge.yaml", base))


@pytest.mark.parametrize("text", ["password: hunter2", "password: 'hunter2'", "keys: [hunter2]", "password: 20022002"])
def test_a_literal_secret_is_refused_and_not_repeated(tmp_path, text):
    """The error says how to write it, and shows nothing of the secret."""
    with pytest.raises(ConfigurationInvalid, match=r"\{file: PATH\}") as caught:
        section(text, tmp_path).check(Adapter, "sources[0]")

    assert caught.value.code == "secret-literal"
    assert "hunter2" not in str(caught.value)
    assert "2002" not in str(caught.value)


@pytest.mark.parametrize("reference", [{}, {"file": "a", "env": "B"}, {"env": ""}, {"vault": "x"}, None])
def test_a_reference_names_exactly_one_place(reference):
    """Neither none nor two, nor a place of another kind."""
    with pytest.raises(ValidationError):
        SecretRef.model_validate(reference)


def test_secrets_are_read_late(tmp_path, monkeypatch):
    """A rotated secret is seen by the next who asks; a file's last line end is not part of it."""
    settings = section("password: {file: secret}\nkeys: [{env: BRIDGE_TEST_SECRET}]", tmp_path).check(Adapter)
    (tmp_path / "secret").write_text("first\n")
    assert settings.password.resolve() == "first"
    (tmp_path / "secret").write_text("second\r\n")
    monkeypatch.setenv("BRIDGE_TEST_SECRET", "third")

    assert settings.password.resolve() == "second"
    assert settings.keys[0].resolve() == "third"
    assert "second" not in repr(settings)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_missing_secret_is_named_by_its_place(tmp_path, content):
    """An absent, empty or binary file is an error that names the file."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)

    with pytest.raises(Incorrect, match="secret") as caught:
        SecretRef(file=tmp_path / "secret").resolve()

    assert caught.value.code == "secret-missing"


def test_a_missing_variable_is_named(monkeypatch):
    """An unset variable is an error that names it."""
    monkeypatch.delenv("BRIDGE_TEST_SECRET", raising=False)

    with pytest.raises(Incorrect, match="BRIDGE_TEST_SECRET"):
        SecretRef(env="BRIDGE_TEST_SECRET").resolve()


def test_a_section_prints_names_only(tmp_path):
    """A raw section may hold a literal secret that nobody has refused yet."""
    assert repr(section("password: hunter2", tmp_path)) == "Section(password)"
