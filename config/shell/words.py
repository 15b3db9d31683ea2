"""A command line of the shell, in words: [PATH] COMMAND [VALUE…] [KEY=VALUE…] [--FLAG]."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from config.shell.errors import Usage

MAX_NAME_BYTES = 255
_KEYWORD = re.compile(r"(?:--)?([a-z][a-z0-9_-]*)=(.*)", re.DOTALL)
_FLAG = re.compile(r"--([a-z][a-z0-9_-]*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*", re.ASCII)
_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)


class Command(NamedTuple):
    """What to do (`name`), where (`path`, "" for here), and with what."""

    path: str
    name: str
    values: list[str]
    keywords: dict[str, str]


def split(line: str) -> list[str]:
    """Split a line as a POSIX shell would; a line that begins with # is empty.

    Raises:
        Usage: a quotation does not end.
    """
    if line.lstrip().startswith("#"):
        return []
    try:
        return shlex.split(line)
    except ValueError as error:
        raise Usage("command line", str(error).lower()) from None


def parse(words: Sequence[str]) -> Command | None:
    """Give the command that words stand for; None for no words.

    Raises:
        Usage: a word has control characters in it, or a key stands there twice.
    """
    for word in words:
        if any("\ud800" <= c <= "\udfff" for c in word):
            raise Usage("command line", f"{word[:80]!r} is not UTF-8")
        if not word.isprintable():
            raise Usage("command line", f"{word[:80]!r} has control characters in it", "no name or path may")
    rest = list(words)
    path = rest.pop(0) if rest and _is_path(rest[0]) else ""
    name = rest.pop(0) if rest else ""
    if not name:
        return Command(path, "cd", ["."], {}) if path else None
    values: list[str] = []
    keywords: dict[str, str] = {}
    for word in rest:
        flag, keyword = _FLAG.fullmatch(word), _KEYWORD.fullmatch(word)
        if not flag and not keyword:
            values.append(word)
            continue
        key, value = (flag[1], "true") if flag else (keyword[1], keyword[2]) if keyword else ("", "")
        key = key.replace("-", "_")
        if key in keywords:
            raise Usage(key, "is given twice")
        keywords[key] = value
    return Command(path, name, values, keywords)


def _is_path(word: str) -> bool:
    return "/" in word or word in {".", "..", "*"}


def check_name(place: str, name: str) -> str:
    """Give a name back when it can be one of a device, an array or a virtual device.

    Raises:
        Usage: it can not.
    """
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise Usage(place, f"{name[:40]!r}… has {len(name.encode())} bytes", f"at most {MAX_NAME_BYTES}")
    if not _NAME.fullmatch(name):
        raise Usage(place, f"{name[:80]!r} is not a name", "letters, digits and ._:@+- of ASCII")
    return name


def check_iscsi_name(place: str, name: str) -> str:
    """Give a name back when its characters and length are those of an iSCSI name; annexd looks at the rest.

    Raises:
        Usage: they are not.
    """
    if len(name.encode()) > 223:
        raise Usage(place, f"{name[:40]!r}… has {len(name.encode())} bytes", "at most 223: RFC 7143 4.2.7.1")
    if not re.fullmatch(r"[A-Za-z0-9.:-]+", name, re.ASCII):
        raise Usage(place, f"{name[:80]!r} is not an iSCSI name", "iqn.YYYY-MM.reversed.domain[:string]")
    return name


def truth(place: str, text: str) -> bool:
    """Give what true, false, yes, no, on, off, 1 or 0 means.

    Raises:
        Usage: it is none of these.
    """
    if text.lower() not in _TRUTH:
        raise Usage(place, f"{text[:80]!r} is neither true nor false")
    return _TRUTH[text.lower()]


def number(place: str, text: str) -> int:
    """Give a whole number, 0 or more.

    Raises:
        Usage: it is not one.
    """
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise Usage(place, f"{text[:80]!r} is not a number")
    return int(text)


def listed(text: str) -> list[str]:
    """Give the parts of a list with commas."""
    return [part for part in (part.strip() for part in text.split(",")) if part]
