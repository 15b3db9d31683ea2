"""What sense data of an external array says. It is untrusted: any bytes give an answer, and none raises."""

from __future__ import annotations

from typing import NamedTuple

from scsi.status import SenseKey

_NONE = 0


class Sense(NamedTuple):
    """Decoded sense data; all zero when there was none to decode.

    Attributes:
        key: sense key.
        asc: additional sense code.
        ascq: its qualifier.
        information: the INFORMATION field when it is valid, usually an LBA, else None.
    """

    key: int
    asc: int
    ascq: int
    information: int | None

    def __str__(self) -> str:
        names = {key.value: key.name.replace("_", " ").lower() for key in SenseKey}
        return f"{names.get(self.key, 'sense key')} {self.key:X}/{self.asc:02X}/{self.ascq:02X}"


NO_SENSE = Sense(_NONE, _NONE, _NONE, None)


def decode_sense(data: bytes) -> Sense:
    """Take sense data apart, fixed or descriptor format, however short it is.

    Spec: SPC-6 "Fixed format sense data", "Descriptor format sense data".
    """
    if not data:
        return NO_SENSE
    response_code = data[0] & 0x7F
    if response_code in {0x70, 0x71}:
        padded = data[:18].ljust(18, b"\0")
        known = 8 + padded[7] if len(data) > 7 else len(data)
        information = int.from_bytes(padded[3:7], "big") if padded[0] & 0x80 else None
        if known < 14:
            return Sense(padded[2] & 0x0F, padded[12] if known > 12 else 0, 0, information)
        return Sense(padded[2] & 0x0F, padded[12], padded[13], information)
    if response_code in {0x72, 0x73}:
        padded = data[:8].ljust(8, b"\0")
        return Sense(padded[1] & 0x0F, padded[2], padded[3], _information(data[8 : 8 + padded[7]]))
    return NO_SENSE


def _information(descriptors: bytes) -> int | None:
    while len(descriptors) >= 2:
        length = 2 + descriptors[1]
        if descriptors[0] == 0 and length >= 12 <= len(descriptors) and descriptors[2] & 0x80:
            return int.from_bytes(descriptors[4:12], "big")
        descriptors = descriptors[length:]
    return None
