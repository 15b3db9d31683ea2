"""A Linux disk, by the kernel's SG_IO."""

from __future__ import annotations

import sgio
from pyscsi.pyscsi.scsi_command import SCSICommand
from pyscsi.pyscsi.scsi_device import SCSIDevice

from config.host.errors import Unreachable
from config.host.scsi_device import CHECK_CONDITION, RESERVATION_CONFLICT, CommandFailed

# All that a fixed-format or descriptor-format sense of ours can be; cython-sgio takes 32 by default.
SENSE_BYTES = 96


class DiskDevice(SCSIDevice):  # type: ignore[misc]  # PyScsi has no types
    """PyScsi's SG_IO device, with an `execute` that tells failures.

    PyScsi's own (2.1) makes a CheckCondition and does not raise it, so that every refusal would look like GOOD.
    """

    def __init__(self, path: str) -> None:
        """Open the disk.

        Raises:
            Unreachable: it is not there, or may not be opened.
        """
        try:
            # Not followed when the disk goes and comes back under one name: it may be another one then.
            SCSIDevice.__init__(self, path, readwrite=False, detect_replugged=False)
        except (OSError, NotImplementedError) as error:
            raise Unreachable(f"{path} can not be opened: {getattr(error, 'strerror', None) or error}") from error

    def execute(self, command: SCSICommand) -> None:
        """Run a command (see `ScsiDevice`)."""
        try:
            # The number that comes back is the residual count, whatever the binding's own description says.
            missing_bytes = sgio.execute(self._file, command.cdb, command.dataout, command.datain, SENSE_BYTES)
        except sgio.CheckConditionError as error:
            raise CommandFailed(CHECK_CONDITION, bytes(error.sense)) from None
        except sgio.UnspecifiedError as error:
            # The binding hides the status; of those that have no sense only this one is usual.
            raise CommandFailed(RESERVATION_CONFLICT) from error
        except OSError as error:
            raise Unreachable(f"{self._file_name}: SG_IO failed: {error.strerror}") from error
        del command.datain[len(command.datain) - missing_bytes :]
