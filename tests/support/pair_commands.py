"""The array commands as tests send them, over a session of `tests.support.host.Host`."""

from __future__ import annotations

import time
from collections.abc import Callable

from scsi.array_commands import (
    PAIR_ROW_BYTES,
    VIRTUAL_DEVICE_ROW_BYTES,
    ArrayIn,
    ArrayInCdb,
    ArrayOut,
    ArrayOutCdb,
    FenceLevel,
    PairCreate,
    PairFlag,
    PairRow,
    PairState,
    decode_list,
    decode_pair,
    decode_virtual_device,
    encode_array_in,
    encode_array_out,
    encode_pair_create,
)
from scsi.iscsi.initiator_task import Task
from tests.support.host import GOOD, Host

REPORT_BYTES = 65536
POLL_S = 0.1


def array_in(host: Host, action: ArrayIn, identifier: int = 0, *, offset: int = 0, length: int = REPORT_BYTES) -> Task:
    """Send ARRAY IN to LUN 0."""
    cdb = encode_array_in(ArrayInCdb(action, identifier, offset, length))
    return host.command(cdb, data_in_bytes=length)


def array_out(
    host: Host, action: ArrayOut, identifier: int = 0, flags: int = 0, parameters: bytes = b"", lun: int = 0
) -> Task:
    """Send ARRAY OUT to a LUN."""
    cdb = encode_array_out(ArrayOutCdb(action, identifier, flags, len(parameters)))
    return host.command(cdb, data_out=parameters, lun=lun)


def naa_of(host: Host, lun: int) -> bytes:
    """Give the NAA id of the virtual device under a LUN."""
    reply = array_in(host, ArrayIn.REPORT_VIRTUAL_DEVICES)
    rows = [decode_virtual_device(row) for row in decode_list(reply.data_in, VIRTUAL_DEVICE_ROW_BYTES)]
    return next(row.naa for row in rows if row.lun[1] == lun)


def create_pair(
    host: Host, secondary_lun: int, level: FenceLevel, *, pace_mib_s: int = 0, nocopy: bool = False
) -> Task:
    """Send PAIR CREATE to LUN 0."""
    parameters = PairCreate(level, nocopy, pace_mib_s, naa_of(host, secondary_lun))
    return array_out(host, ArrayOut.PAIR_CREATE, parameters=encode_pair_create(parameters))


def the_pair(host: Host) -> PairRow:
    """Give the only pair there is."""
    reply = array_in(host, ArrayIn.REPORT_PAIRS)
    assert reply.status == GOOD
    (row,) = decode_list(reply.data_in, PAIR_ROW_BYTES)
    return decode_pair(row)


def wait_for_pair(host: Host, state: PairState, limit_s: float = 60.0) -> PairRow:
    """Wait until the only pair is in `state`, and nothing of it is out of sync or, after a lapse, unverified (I10)."""
    unverified = PairFlag.UNVERIFIED
    return wait_until(
        host, lambda row: row.state == state and not row.out_of_sync_blocks and not row.flags & unverified, limit_s
    )


def wait_until(host: Host, condition: Callable[[PairRow], bool], limit_s: float = 60.0) -> PairRow:
    """Wait until the only pair's row fulfils `condition`."""
    deadline = time.monotonic() + limit_s
    while not condition(row := the_pair(host)):
        assert time.monotonic() < deadline, f"still {row}"
        time.sleep(POLL_S)
    return row
