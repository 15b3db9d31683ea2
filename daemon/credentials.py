"""Secrets that stand in files of the service manager (systemd `LoadCredential=`) in place of the configuration.

They are put into a copy of the configuration, from which logins are checked and arrays are logged in to. That copy is
never saved and never shown.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from config import model
from config.errors import ConfigError

DIRECTORY = "CREDENTIALS_DIRECTORY"
MOST_BYTES = 1024  # a secret is 256 bytes at most; what is longer is another file


def resolve(config: model.Config) -> model.Config:
    """Give a copy of a checked configuration in which every `chap` has its secret; this blocks.

    Raises:
        ConfigError: a credential is not there, or can not be a secret.
    """
    resolved = msgspec.convert(msgspec.to_builtins(config), model.Config)
    if _fill(resolved, ""):
        model.check(resolved)
    return resolved


def _fill(entry: Any, place: str) -> int:
    """Put the secrets into all entries below one; count them."""
    if isinstance(entry, list):
        return sum(_fill(value, f"{place}[{index}]") for index, value in enumerate(entry))
    if not isinstance(entry, model.Entry):
        return 0
    if isinstance(entry, model.Chap) and entry.credential is not None:
        entry.secret, entry.credential = _secret(entry.credential, place), None
        return 1
    return sum(_fill(getattr(entry, name), f"{place}.{name}".lstrip(".")) for name in entry.__struct_fields__)


def _secret(name: str, place: str) -> str:
    folder = os.environ.get(DIRECTORY)
    if not folder:
        raise ConfigError(
            place, f"credential {name!r} is not there: ${DIRECTORY} is not set", "systemd LoadCredential="
        )
    try:
        with Path(folder, name).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        secret = data.decode().removesuffix("\n")
    except OSError as error:
        raise ConfigError(place, f"credential {name!r} can not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(place, f"credential {name!r} is not UTF-8") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(place, f"credential {name!r} is longer than a secret")
    return secret
