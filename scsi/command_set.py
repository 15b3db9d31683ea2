"""The commands of annex's logical units, put together from the modules that have them.

A new module of commands is one more line here.
"""

from __future__ import annotations

from scsi import (
    array_server,
    block_commands,
    capacity,
    extended_copy,
    inquiry,
    mode_select,
    modes,
    provisioning,
    report,
    reservations,
)
from scsi.commands import CommandTable

COMMANDS = CommandTable(
    inquiry.ROWS,
    report.ROWS,
    capacity.ROWS,
    modes.ROWS,
    reservations.ROWS,
    mode_select.ROWS,
    block_commands.ROWS,
    provisioning.ROWS,
    extended_copy.ROWS,
    array_server.ROWS,
)
