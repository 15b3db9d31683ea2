"""iSCSI names of nodes, and the parts of an initiator port's name.

A name is compared byte for byte after normalisation. annex makes and configures only names in their normal form
already; of what peers send it takes any without characters that could do harm in a log line, a path or a shell.
"""

from __future__ import annotations

import re

MAX_NAME_BYTES = 223

_IQN = re.compile(
    r"iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[^\s/]+)?"
)
_EUI = re.compile(r"eui\.[0-9a-fA-F]{16}")
_NAA = re.compile(r"naa\.([0-9a-fA-F]{16}|[0-9a-fA-F]{32})")
# Everything ASCII that RFC 7143 4.2.7.2 (by way of the iSCSI stringprep profile, RFC 3722) leaves out of names.
_PROHIBITED = re.compile(r"[\x00-\x2c\x2f\x3b-\x40\x5b-\x60\x7b-\x7f]")
# The same without the underscore, which is prohibited too, and is in the names of many a host.
_HARMFUL = re.compile(r"[\x00-\x2c\x2f\x3b-\x40\x5b-\x5e\x60\x7b-\x7f]")


class InvalidName(ValueError):
    """A node name that RFC 7143 does not allow; the text says which rule."""


def check_node_name(name: str) -> str:
    """Return a well-formed iqn., eui. or naa. name in its normal form: hexadecimal digits in lower case.

    Raises:
        InvalidName: longer than 223 bytes, not one of the three types, or holding a character that names can not have.

    Spec: RFC 7143 4.2.7.2 "iSCSI Name Encoding" and 4.2.7.3 to 4.2.7.6.
    """
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidName(f"longer than {MAX_NAME_BYTES} bytes")
    if _EUI.fullmatch(name) or _NAA.fullmatch(name):
        return name.lower()
    if not name.startswith("iqn."):
        raise InvalidName("does not begin with iqn., eui. or naa.")
    if found := _PROHIBITED.search(name):
        raise InvalidName(f"has the character {found.group()!r}, which names can not have")
    if not name.isprintable():
        raise InvalidName("has an unprintable character")
    if name != name.lower():
        raise InvalidName("has upper case letters")
    if not _IQN.fullmatch(name):
        raise InvalidName("is not iqn.YYYY-MM.REVERSED.DOMAIN[:REST]")
    return name


def check_peer_name(name: str) -> str:
    """Return the name that a peer sent when it can be used as an identity, with ASCII upper case folded.

    More is let in than `check_node_name` does, because initiators in the field are also named `iqn.x:y` and less; what
    identifies a host is still bounded.

    Raises:
        InvalidName: empty, longer than 223 bytes, or holding a character that names can not have.
    """
    if not name:
        raise InvalidName("is empty")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidName(f"longer than {MAX_NAME_BYTES} bytes")
    folded = name.lower()
    if _HARMFUL.search(folded) or not folded.isprintable():
        raise InvalidName("has a character that names can not have")
    return folded


def initiator_port_name(initiator_name: str, isid: bytes) -> str:
    """Return the SCSI name of an initiator port: the node's name, `,i,0x` and the ISID.

    Spec: RFC 7143 4.4.2 "SCSI Architecture Model", initiator port names.
    """
    return f"{initiator_name},i,0x{isid.hex()}"


def target_port_name(target_name: str, target_portal_group_tag: int) -> str:
    """Return the SCSI name of a target port: the node's name, `,t,0x` and the portal group tag.

    Spec: RFC 7143 4.4.2 "SCSI Architecture Model", target port names.
    """
    return f"{target_name},t,0x{target_portal_group_tag:04x}"
