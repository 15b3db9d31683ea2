"""Ids of virtual devices: NAA IEEE Registered Extended, type 6, random, made once and kept.

The 24-bit company id is one that annex was not assigned, because no registry assigned it any: its first octet, 02h,
says "locally administered" (IEEE 802c calls these *administratively assigned*: ids in them are unique only by their
maker's care). The care here is 100 random bits. The other two octets are "an", so that a person can tell whose they
are.

Spec: SPC-4 7.8.6.6 "NAA designator format", IEEE Registered Extended.
"""

from __future__ import annotations

import os
from collections.abc import Callable

NAA_BYTES = 16
COMPANY_ID = 0x02616E
_FIRST_28_BITS = 6 << 24 | COMPANY_ID
_RANDOM_BITS = 100


def make_naa(random_bytes: Callable[[int], bytes] = os.urandom) -> bytes:
    """Make a new id."""
    tail = int.from_bytes(random_bytes(13)) & ((1 << _RANDOM_BITS) - 1)
    return (_FIRST_28_BITS << _RANDOM_BITS | tail).to_bytes(NAA_BYTES)


def is_own(naa: bytes) -> bool:
    """Tell whether `naa` has the form that `make_naa` gives."""
    return len(naa) == NAA_BYTES and int.from_bytes(naa) >> _RANDOM_BITS == _FIRST_28_BITS
