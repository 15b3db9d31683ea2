"""Where a logical unit is, as the person at the terminal writes it."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from config.host.errors import Usage

DEFAULT_PORT = 3260
SECRET_VARIABLE = "LIBISCSI_CHAP_PASSWORD"  # noqa: S105 (the name of a variable, the one that libiscsi's tools read)
_SHAPE = "iscsi://[user[%secret]@]host[:port]/target-name/lun"
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.]+)?\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?")
_NAME = re.compile(r"(?:iqn|eui|naa)\.[^\s/\x00-\x20]+")
_NAME_BYTES = 223  # RFC 7143 4.2.7.1


class IscsiAddress(NamedTuple):
    """A LUN of an iSCSI target."""

    host: str
    port: int
    target: str
    lun: int
    user: str = ""
    secret: str = ""

    @property
    def portal(self) -> str:
        """Host and port as libiscsi wants them; a host that is an IPv6 address is in brackets."""
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """Give the URL without the secret: this is what messages show."""
        user = f"{self.user}@" if self.user else ""
        return f"iscsi://{user}{self.portal}/{self.target}/{self.lun}"

    def __repr__(self) -> str:
        return str(self)


class DiskAddress(NamedTuple):
    """A disk, or SCSI generic device, of this host."""

    path: str

    def __str__(self) -> str:
        return self.path


Address = IscsiAddress | DiskAddress


def parse_address(text: str) -> Address:
    """Read an iscsi:// URL or a path under /dev.

    Raises:
        Usage: it is neither; the message says which part is wrong, and never shows a secret.
    """
    if text.startswith("/dev/"):
        return DiskAddress(text)
    if not text.startswith("iscsi://"):
        raise Usage(f"{_printable(text)!r} is neither {_SHAPE} nor a disk such as /dev/sda")
    parts = text.removeprefix("iscsi://").rsplit("/", 2)
    if len(parts) != 3:
        raise Usage(f"the URL is not complete; its form is {_SHAPE}")
    authority, target, lun = parts
    userinfo, _, place = authority.rpartition("@")
    user, _, secret = userinfo.partition("%")
    match = _AUTHORITY.fullmatch(place)
    if match is None:
        raise Usage(f"host and port {_printable(place)!r} can not be read; the form is {_SHAPE}")
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise Usage(f"port {port} is not between 1 and 65535")
    check_name(target, "target name")
    if not lun.isascii() or not lun.isdigit() or int(lun) >= 16384:
        raise Usage(f"LUN {_printable(lun)!r} is not a number between 0 and 16383")
    if user and not secret:
        secret = os.environ.get(SECRET_VARIABLE, "")
        if not secret:
            raise Usage(f"user {_printable(user)!r} has no secret: write user%secret@, or set {SECRET_VARIABLE}")
    return IscsiAddress(match["host"], port, target, int(lun), user, secret)


def check_name(name: str, what: str) -> None:
    """Refuse what can not be an iSCSI name.

    Raises:
        Usage: with the reason.
    Spec: RFC 7143 4.2.7.1 "iSCSI Name Properties".
    """
    if _NAME.fullmatch(name) is None:
        raise Usage(f"{what} {_printable(name)!r} is not an iSCSI name (iqn.…, eui.… or naa.…)")
    if len(name.encode("utf-8", "surrogateescape")) > _NAME_BYTES:
        raise Usage(f"{what} is longer than {_NAME_BYTES} bytes")


def parse_naa(text: str) -> bytes | None:
    """Read a 16-byte NAA id, with or without `naa.` or `0x` in front; None when it is something else."""
    digits = re.sub(r"^(naa\.|0x)", "", text.lower())
    return bytes.fromhex(digits) if re.fullmatch(r"6[0-9a-f]{31}", digits) else None


def decode_lun(raw: bytes) -> int:
    """Read a single-level LUN from its 8 bytes (SAM-6 "Logical unit number")."""
    return int.from_bytes(raw[:2], "big") & 0x3FFF


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:80])
