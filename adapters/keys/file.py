"""Keys in a file that only its owner can use."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.keys.files import open_key_file
from bridge.keys.keyset import KeySet


class FileKeysSettings(BaseModel):
    """A key set in a file of mode 0600, as `hiebridge keys init` makes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(
        description="The key file; mode 0600. Back it up apart from the database.", examples=["keys.json"]
    )


def open_file_keys(settings: FileKeysSettings) -> KeySet:
    """The keys in the file. Raises as :func:`bridge.keys.files.open_key_file`."""
    return open_key_file(settings.path)


adapter = AdapterSpec("file", FileKeysSettings, open_file_keys)
