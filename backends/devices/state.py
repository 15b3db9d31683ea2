"""Whether what lies under a virtual device can serve."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class DeviceState(enum.IntEnum):
    """States of devices, external LUs, regions and virtual devices, with the values that REPORT REGIONS sends."""

    READY = 0
    PENDING = 1  # becomes ready by itself: an array is being connected, a capacity is not known yet
    BLOCKED = 2  # needs an admin: device gone or held by another, other id or size than recorded


def worst(states: Iterable[DeviceState]) -> DeviceState:
    """Give the state of a whole made of parts in `states`; READY when there are none."""
    return max(states, default=DeviceState.READY)
