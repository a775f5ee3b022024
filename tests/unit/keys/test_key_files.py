"""Key files and key variables: created once, owner's eyes only, clear refusals."""

from __future__ import annotations

import pytest

from adapters.keys.environment import EnvironmentKeysSettings, open_environment_keys
from bridge.errors import Conflict, Incorrect
from bridge.keys.files import create_key_file, open_key_file


def test_a_new_key_file_is_its_owners_alone(tmp_path):
    """Mode 0600 whatever the umask allows."""
    create_key_file(tmp_path / "keys.json")

    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def test_an_existing_key_file_is_never_overwritten(tmp_path):
    """Creating twice refuses and leaves the first keys as they are."""
    path = tmp_path / "keys.json"
    create_key_file(path)
    before = path.read_bytes()

    with pytest.raises(Conflict) as caught:
        create_key_file(path)

    assert caught.value.code == "key-file-exists"
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o777])
def test_a_key_file_that_others_can_use_is_refused(tmp_path, mode):
    """Any permission of group or others refuses, and the text says how to mend it."""
    path = tmp_path / "keys.json"
    create_key_file(path)
    path.chmod(mode)

    with pytest.raises(Incorrect, match="chmod 600") as caught:
        open_key_file(path)

    assert caught.value.code == "key-file-exposed"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_key_file_that_cannot_be_read_is_named(tmp_path, content):
    """A missing or binary file is an error of the configuration, with the way to make one."""
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)

    with pytest.raises(Incorrect, match="hiebridge keys init") as caught:
        open_key_file(path)

    assert caught.value.code == "key-file-missing"


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_variable_is_named(monkeypatch, value):
    """An unset or empty variable says which one."""
    monkeypatch.delenv("HIEBRIDGE_KEYS", raising=False)
    if value is not None:
        monkeypatch.setenv("HIEBRIDGE_KEYS", value)

    with pytest.raises(Incorrect, match="HIEBRIDGE_KEYS") as caught:
        open_environment_keys(EnvironmentKeysSettings())

    assert caught.value.code == "keys-variable-missing"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    """Creating where nothing can be created is an error of the input, not a stack trace."""
    with pytest.raises(Incorrect, match="nowhere") as caught:
        create_key_file(tmp_path / "nowhere" / "keys.json")

    assert caught.value.code == "key-file-unwritable"
