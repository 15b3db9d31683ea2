"""Secrets that stand in files of the service manager (systemd `LoadCredential=`) in place of the configuration.

They are put into a copy of the configuration, from which logins are checked and arrays are logged in to. That copy is
never saved and never shown.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from config import checks, model
from config.errors import ConfigError

DIRECTORY = "CREDENTIALS_DIRECTORY"
OTHERS = stat.S_IRWXO | stat.S_IWGRP
MOST_BYTES = 1024  # a secret is 256 bytes at most; what is longer is another file


def resolve(config: model.Config) -> model.Config:
    """Give a copy of a checked configuration in which every `chap` has its secret; this blocks.

    Raises:
        ConfigError: a credential is not there, or can not be a secret.
    """
    resolved = msgspec.convert(msgspec.to_builtins(config), model.Config)
    if _fill(resolved, ""):
        checks.check(resolved)
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
        # Not blocking: a FIFO in its place would wait for somebody to write.
        with open(Path(folder, name), "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            _check(os.fstat(file.fileno()), name, place)
            data = file.read(MOST_BYTES + 1)
        secret = data.decode().removesuffix("\n")
    except OSError as error:
        raise ConfigError(place, f"credential {name!r} can not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(place, f"credential {name!r} is not UTF-8") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(place, f"credential {name!r} is longer than a secret")
    if not secret:
        raise ConfigError(place, f"credential {name!r} is empty")
    return secret


def _check(found: os.stat_result, name: str, place: str) -> None:
    """Take only a file that nobody else can have written or read.

    systemd makes them 0400 and the service's own, or 0440 and root's, with an access list that names the service.
    """
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(place, f"credential {name!r} is not a file")
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(place, f"credential {name!r} belongs to user {found.st_uid}", "chown it to annexd's user")
    if found.st_mode & OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(place, f"credential {name!r} has mode {mode:04o}, which is open to others", "chmod 0400")
