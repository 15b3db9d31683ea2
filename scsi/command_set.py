"""The commands of annex's logical units, put together from the modules that have them.

A new module of commands is one more line here.
"""

from __future__ import annotations

from scsi import (
    array_server,
    atomic_writes,
    block_commands,
    buffers,
    capacity,
    defects,
    diagnostics,
    exclusive_commands,
    extended_copy,
    identifying_information,
    inquiry,
    lba_status,
    log_sense,
    long_commands,
    mode_select,
    modes,
    orwrite,
    persistent_reserve,
    prefetch,
    provisioning,
    report,
    reservations,
    sanitize,
    target_port_groups,
)
from scsi.commands import CommandTable

COMMANDS = CommandTable(
    inquiry.ROWS,
    report.ROWS,
    capacity.ROWS,
    modes.ROWS,
    mode_select.ROWS,
    log_sense.ROWS,
    diagnostics.ROWS,
    buffers.ROWS,
    reservations.ROWS,
    persistent_reserve.ROWS,
    block_commands.ROWS,
    long_commands.ROWS,
    exclusive_commands.ROWS,
    orwrite.ROWS,
    atomic_writes.ROWS,
    prefetch.ROWS,
    defects.ROWS,
    provisioning.ROWS,
    lba_status.ROWS,
    extended_copy.ROWS,
    sanitize.ROWS,
    target_port_groups.ROWS,
    identifying_information.ROWS,
    array_server.ROWS,
)
