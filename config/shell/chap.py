"""CHAP as the shell takes it: userid, password, password_file and credential, and the same with mutual_."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from config.shell.errors import Usage

_KEYS = ("userid", "password", "password_file", "credential")
KEYS = frozenset(prefix + key for prefix in ("", "mutual_") for key in _KEYS)


def without_group(group: tuple[str, ...]) -> None:
    """Take the word `auth` of targetcli's `set auth userid=…`.

    Raises:
        Usage: it is another word.
    """
    if group not in {(), ("auth",)}:
        raise Usage("set", f"{group[0][:80]!r} is not KEY=VALUE")


def directions(given: dict[str, str]) -> dict[str, Any]:
    """Give the fields `chap` and `mutual_chap`, as far as they are given; None for none.

    Raises:
        Usage: a secret without a name, more than one secret, or a file that can not be read.
    """
    found: dict[str, Any] = {}
    for field, prefix in (("chap", ""), ("mutual_chap", "mutual_")):
        values = {key: given[prefix + key] for key in _KEYS if prefix + key in given}
        if values:
            found[field] = _direction(prefix, values)
    return found


def _direction(prefix: str, values: dict[str, str]) -> dict[str, str] | None:
    name = values.pop("userid", None)
    if name == "" and not values:
        return None
    if not name:
        raise Usage(f"{prefix}userid", "is missing", "a secret goes with a name")
    if len(values) != 1:
        raise Usage(f"{prefix}userid", "needs its secret", "one of password, password_file and credential")
    ((key, value),) = values.items()
    if key == "credential":
        return {"name": name, "credential": value}
    return {"name": name, "secret": _content(value) if key == "password_file" else value}


def _content(name: str) -> str:
    try:
        with Path(name).expanduser().open(encoding="utf-8") as file:
            return file.read(4096).rstrip("\r\n")
    except OSError as error:
        raise Usage(name, f"can not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Usage(name, "is not UTF-8") from None
