"""Reading the configuration file: from bytes that anyone may have damaged to a checked `Config`."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from config import migrations, model
from config.errors import ConfigError

MAX_FILE_BYTES = 8 * 1024 * 1024


def load(path: Path) -> model.Config:
    """Read, validate and check the configuration in `path`.

    Raises:
        ConfigError: it can not be read, is not valid, or holds secrets that others may read; with the place.
    """
    data, mode = _read(path)
    config = decode(data, str(path))
    if mode & 0o077 and _has_secrets(config):
        raise ConfigError(str(path), f"holds CHAP secrets and has mode {mode:04o}", f"chmod 600 {path}")
    return config


def decode(data: bytes, place: str) -> model.Config:
    """Give the checked configuration in `data`; `place` begins each error's place.

    Raises:
        ConfigError: as `load`.
    """
    try:
        document = json.loads(data, object_pairs_hook=_unique_keys)
        config = msgspec.convert(migrations.migrate(document), model.Config)
        model.check(config)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{place}: line {error.lineno} column {error.colno}", f"not JSON: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(place, f"not JSON: {error}") from None
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        raise ConfigError(f"{place}: {where.rstrip('`').lstrip('.') or 'top level'}", problem) from None
    except ConfigError as error:
        if error.place.startswith(place):
            raise
        raise ConfigError(f"{place}: {error.place}", error.problem, error.remedy) from None
    return config


def save(path: Path, config: model.Config) -> None:
    """Replace the file with `config`: at every moment it is the old one or the new one, whole; mode 0600.

    Raises:
        ConfigError: it can not be written; the old one is still there.
    """
    new = path.with_name(f"{path.name}.new")
    data = msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        new.replace(path.resolve())
    except OSError as error:
        raise ConfigError(str(path), f"can not be written: {error.strerror}") from None


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(str(path), "is not a regular file")
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(str(path), f"can not be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(str(path), f"is larger than {MAX_FILE_BYTES} bytes")
    return data, stat.S_IMODE(status.st_mode)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        twice = next(key for key in keys if sum(other == key for other, _ in pairs) > 1)
        raise ConfigError("JSON", f"the key {twice!r} stands twice in one object")
    return keys


def _has_secrets(config: model.Config) -> bool:
    return bool(
        config.discovery
        or any(array.chap for array in config.arrays)
        or any(acl.chap for target in config.targets for acl in target.acls)
    )
