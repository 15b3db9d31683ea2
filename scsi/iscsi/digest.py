"""CRC32C as iSCSI puts it on the wire, for header and data digests.

Spec: RFC 7143 13.1 "HeaderDigest and DataDigest"; test vectors in appendix A.4 of RFC 3720.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

DIGEST_BYTES = 4
Buffer = bytes | bytearray | memoryview

_LITTLE_ENDIAN = struct.Struct("<I")
_ZEROS = (b"", b"\0", b"\0\0", b"\0\0\0")


def encode_digest(data: Buffer, padding: int = 0) -> bytes:
    """Return the 4 digest bytes that follow `data` on the wire.

    Args:
        data: the header with its AHS, or a data segment without its padding.
        padding: zero bytes that follow the data and are covered too, 0 to 3.
    """
    crc: int = crc32c(data)
    if padding:
        crc = crc32c(_ZEROS[padding], crc)
    return _LITTLE_ENDIAN.pack(crc)


def digest_matches(data: Buffer, padding: Buffer, digest: Buffer) -> bool:
    """Say whether received data and the padding bytes as received have the digest that came with them."""
    crc: int = crc32c(data)
    if len(padding):
        crc = crc32c(padding, crc)
    return _LITTLE_ENDIAN.pack(crc) == digest
