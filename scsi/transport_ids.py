"""TransportIDs: initiator ports by name, as persistent reservations have them in their parameter lists.

Spec: SPC-4 7.6.4 "TransportID identifiers", "TransportID for initiator ports using SCSI over iSCSI".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from scsi.errors import InvalidFieldInParameterList
from scsi.nexus import Nexus

_ISCSI = 0x05
_NAME_WITH_ISID = 0x40
_MOST_TRANSPORT_ID_BYTES: Final = 244
_INITIATOR_PORT = re.compile(r"(?P<name>[^,\0]{1,223}),i,0x(?P<isid>[0-9a-f]{12})")


def encode_transport_id(initiator_port: str) -> bytes:
    """Give the TransportID of an initiator port: its name with the ISID.

    Spec: SPC-4 "TransportID for initiator ports using SCSI over iSCSI".
    """
    name = initiator_port.encode() + b"\0"
    name = name.ljust(max(20, (len(name) + 3) // 4 * 4), b"\0")
    return bytes((_NAME_WITH_ISID | _ISCSI, 0)) + len(name).to_bytes(2, "big") + name


class TransportIds(NamedTuple):
    """A list of TransportIDs in a parameter list."""

    data: bytes
    offset: int  # in the parameter list

    def initiator_ports(self, nexuses: Iterable[Nexus]) -> Iterator[str]:
        """Give the initiator ports that are named; a name without ISID is all ports of that name that are logged in.

        Raises:
            InvalidFieldInParameterList: one is not well-formed, or names nobody.
        """
        known = list(nexuses)
        at = 0
        while at < len(self.data):
            head = self.data[at : at + 4]
            length = int.from_bytes(head[2:4], "big")
            name = self.data[at + 4 : at + 4 + length]
            wrong = len(head) < 4 or head[0] & 0x3F != _ISCSI or head[0] & 0x80 or len(name) < length
            if wrong or length < 20 or length % 4 or length > _MOST_TRANSPORT_ID_BYTES or 0 not in name:
                raise InvalidFieldInParameterList(self.offset + at, None, "TransportID")
            text = name[: name.index(0)].decode("utf-8", "replace").lower()
            if head[0] & _NAME_WITH_ISID:
                if not _INITIATOR_PORT.fullmatch(text):
                    raise InvalidFieldInParameterList(self.offset + at + 4, None, "iSCSI name and ISID")
                yield text
            else:
                ports = {nexus.initiator_port for nexus in known if nexus.initiator_name == text}
                if not ports:
                    raise InvalidFieldInParameterList(self.offset + at + 4, None, "nobody of that name is logged in")
                yield from sorted(ports)
            at += 4 + length
