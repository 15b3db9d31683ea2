"""The configuration file: from bytes that anyone may have damaged to a checked `Config`, and back."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from config import backups, checks, files, migrations, model
from config.errors import ConfigError

MAX_FILE_BYTES = 8 * 1024 * 1024


def load(path: Path) -> model.Config:
    """Read, validate and check the configuration in `path`.

    Raises:
        ConfigError: it can not be read, is not valid, or holds secrets that others may read; with the place.
    """
    data, status = files.read(path, MAX_FILE_BYTES)
    mode = stat.S_IMODE(status.st_mode)
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
        checks.check(config)
        msgspec.json.encode(config)  # what can not be saved is not taken
    except json.JSONDecodeError as error:
        raise ConfigError(f"{place}: line {error.lineno} column {error.colno}", f"not JSON: {error.msg}") from None
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        raise ConfigError(f"{place}: {where.rstrip('`').lstrip('.') or 'top level'}", problem) from None
    except (ValueError, RecursionError) as error:  # lone surrogates, nested too deep, numbers too long for Python
        raise ConfigError(place, f"not JSON in UTF-8: {error}") from None
    except ConfigError as error:
        if error.place.startswith(place):
            raise
        raise ConfigError(f"{place}: {error.place}", error.problem, error.remedy) from None
    return config


def save(path: Path, config: model.Config) -> None:
    """Replace the file with `config`, and keep the version before it as a backup when it says something else.

    At every moment the file is the old one or the new one, whole; mode 0600. A symbolic link is followed.

    Raises:
        ConfigError: it can not be written, say because the disk is full; the old one is still there.
    """
    data = encode(config, str(path))
    old, backup = None, None
    try:
        if path.exists():
            old, status = files.read(path, MAX_FILE_BYTES)
            if old != data:
                backup = backups.place_for_next(path, status.st_mtime)
                backups.keep(backup, old)
        files.replace(path, data)
    except OSError as error:
        with suppress(OSError, ConfigError):
            _put_back(path, old, backup)
        raise _unwritable(path, error) from None
    backups.prune(path)


def create(path: Path, config: model.Config) -> None:
    """Write `config` to a file that is not there yet; its folder is made, with mode 0700, when it is not there either.

    Raises:
        ConfigError: it is there, or can not be written.
    """
    if os.path.lexists(path):
        raise ConfigError(str(path), "is there already, and stays as it is")
    checks.check(config)
    try:
        files.make_directory(path.parent)
        files.replace(path, encode(config, str(path)))
    except OSError as error:
        raise _unwritable(path, error) from None


def export(path: Path, config: model.Config) -> None:
    """Write `config` to a file of the admin's choice, as `save` does; without backups.

    Raises:
        ConfigError: it can not be written.
    """
    try:
        files.replace(path, encode(config, str(path)))
    except OSError as error:
        raise _unwritable(path, error) from None


def encode(config: model.Config, place: str) -> bytes:
    """Give the file that holds `config`. What is at its default is left out.

    Raises:
        ConfigError: the file would be larger than `load` takes.
    """
    data = msgspec.json.format(msgspec.json.encode(_document(config)), indent=2) + b"\n"
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(place, f"would be larger than {MAX_FILE_BYTES} bytes")
    return data


def _put_back(path: Path, old: bytes | None, backup: Path | None) -> None:
    """Leave the file as it was, and no backup of the version that it holds."""
    if backup is not None:
        backup.unlink(missing_ok=True)
    if old is None:
        files.real(path).unlink(missing_ok=True)
    elif files.read(path, MAX_FILE_BYTES)[0] != old:
        files.replace(path, old)


def _document(value: Any) -> Any:
    if isinstance(value, list):
        return [_document(item) for item in value]
    if not isinstance(value, msgspec.Struct):
        return value
    document = {}
    for field in msgspec.structs.fields(value):
        item = getattr(value, field.name)
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        if item != default:
            document[field.name] = _document(item)
    return document


def _unwritable(path: Path, error: OSError) -> ConfigError:
    remedies = {
        errno.ENOSPC: "make room on its file system",
        errno.EDQUOT: "make room on its file system",
        errno.EROFS: "its file system is read-only",
        errno.EACCES: "its folder must be writable for annexd",
        errno.EPERM: "its folder must be writable for annexd",
    }
    return ConfigError(str(path), f"can not be written: {error.strerror}", remedies.get(error.errno or 0, ""))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ConfigError("JSON", f"the key {twice!r} stands twice in one object")
    return keys


def _has_secrets(config: model.Config) -> bool:
    holders: list[model.Discovery | model.Array | model.Acl] = [
        *([config.discovery] if config.discovery else []),
        *config.arrays,
        *(acl for target in config.targets for acl in target.acls),
    ]
    return any(chap and chap.secret for holder in holders for chap in (holder.chap, holder.mutual_chap))
