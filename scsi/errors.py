"""Why a command is refused: one class per sense code that annex sends, and one per status without sense.

A class *is* its code, so a handler raises the name of what is wrong and `scsi.sense` turns it into bytes in one place.
Whatever else a handler raises is a bug of annex and becomes HARDWARE ERROR, INTERNAL TARGET FAILURE.

Spec: SPC-6 "Sense key and additional sense code definitions"; annex vendor-specific SCSI commands, "Refusals".
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from scsi.status import SenseKey, Status


class FieldPointer(NamedTuple):
    """Where the offending field is.

    Attributes:
        offset: byte within the CDB or the parameter list; the first one of a field of several.
        bit: most significant bit of the field within that byte (7 to 0), or None when the whole byte is meant.
        in_cdb: True for the CDB, False for the parameter list.
    """

    offset: int
    bit: int | None = None
    in_cdb: bool = True


class ScsiError(Exception):
    """A command that ends with CHECK CONDITION.

    Attributes:
        key: sense key.
        asc: additional sense code.
        ascq: additional sense code qualifier.
        information: the INFORMATION field, an LBA for most commands, or None when it is not valid.
        field: the sense-key specific field pointer, or None.
        progress: the sense-key specific progress indication, 0 to 65535, or None.
        deferred: True when what failed is an earlier command, which had its status already.
    """

    deferred = False
    key: int = SenseKey.HARDWARE_ERROR
    asc: int = 0x44
    ascq: int = 0x00

    def __init__(self, message: str = "", *, information: int | None = None, field: FieldPointer | None = None) -> None:
        super().__init__(message or f"{self.key:02X}/{self.asc:02X}/{self.ascq:02X}")
        self.information = information
        self.field = field
        self.progress: int | None = None


class RelayedSense(ScsiError):
    """Sense that is known only at run time: stored for a failed acquisition, or handed on from an array."""

    def __init__(self, key: int, asc: int, ascq: int, message: str = "", *, information: int | None = None) -> None:
        self.key, self.asc, self.ascq = key, asc, ascq
        super().__init__(message, information=information)


# --- NOT READY --------------------------------------------------------------------------------------------------------


class BecomingReady(ScsiError):
    """A path to the external array is being made; the host may try again soon."""

    key, asc, ascq = SenseKey.NOT_READY, 0x04, 0x01


class SanitizeInProgress(ScsiError):
    """Every block of the unit is being overwritten; `progress` is how far that is, in 65,536ths."""

    key, asc, ascq = SenseKey.NOT_READY, 0x04, 0x1B

    def __init__(self, message: str = "", *, progress: int = 0) -> None:
        super().__init__(message)
        self.progress = min(progress, 0xFFFF)


class AccessStateTransition(ScsiError):
    """The access state of the target port is changing; the host may try again soon."""

    key, asc, ascq = SenseKey.NOT_READY, 0x04, 0x0A


class PortInStandbyState(ScsiError):
    """The unit is not served by this target port, which could be told to."""

    key, asc, ascq = SenseKey.NOT_READY, 0x04, 0x0B


class PortInUnavailableState(ScsiError):
    """The unit is not served by this target port."""

    key, asc, ascq = SenseKey.NOT_READY, 0x04, 0x0C


class ManualInterventionRequired(ScsiError):
    """Nothing that the host does helps; an admin has to."""

    key, asc, ascq = SenseKey.NOT_READY, 0x04, 0x03


class SelfTestInProgress(ScsiError):
    """A self-test is under way, and there is one at a time."""

    key, asc, ascq = SenseKey.NOT_READY, 0x04, 0x09


# --- MEDIUM ERROR, HARDWARE ERROR -------------------------------------------------------------------------------------


class UnrecoveredReadError(ScsiError):
    """Blocks that can not be read."""

    key, asc, ascq = SenseKey.MEDIUM_ERROR, 0x11, 0x00


class SanitizeFailed(ScsiError):
    """Not every block could be overwritten, and none may be read or written until that has worked."""

    key, asc, ascq = SenseKey.MEDIUM_ERROR, 0x31, 0x03


class WriteFailed(ScsiError):
    """Blocks that can not be written."""

    key, asc, ascq = SenseKey.MEDIUM_ERROR, 0x0C, 0x00


class FailedSelfTest(ScsiError):
    """A self-test that its host waited for found a fault; log page 10h says more."""

    key, asc, ascq = SenseKey.HARDWARE_ERROR, 0x3E, 0x03


class SetTargetPortGroupsFailed(ScsiError):
    """An access state that a host may not change now."""

    key, asc, ascq = SenseKey.HARDWARE_ERROR, 0x67, 0x0A


class InternalTargetFailure(ScsiError):
    """The device failed, or annex has a bug."""

    key, asc, ascq = SenseKey.HARDWARE_ERROR, 0x44, 0x00


# --- ILLEGAL REQUEST --------------------------------------------------------------------------------------------------


class InvalidOperationCode(ScsiError):
    """An opcode, or an opcode and service action, that the logical unit does not have for this host."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x20, 0x00


class LbaOutOfRange(ScsiError):
    """Blocks past the last one; `information` is the first of them that does not exist."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x21, 0x00


class _InvalidField(ScsiError):
    """A field with a value that is not allowed; built from its place."""

    key = SenseKey.ILLEGAL_REQUEST
    in_cdb: ClassVar[bool]

    def __init__(self, field_offset: int | None = None, bit: int | None = None, message: str = "") -> None:
        """Give the field's first byte and, when it is less than a byte, its most significant bit; None for no place."""
        field = None if field_offset is None else FieldPointer(field_offset, bit, self.in_cdb)
        super().__init__(message, field=field)


class InvalidFieldInCdb(_InvalidField):
    """A CDB field has a value that is not allowed, or a reserved bit is set."""

    asc, ascq = 0x24, 0x00
    in_cdb = True


class InvalidFieldInParameterList(_InvalidField):
    """A field of the parameter list has a value that is not allowed, or a reserved bit is set."""

    asc, ascq = 0x26, 0x00
    in_cdb = False


class ParameterListLengthError(ScsiError):
    """The parameter list is shorter or longer than the command needs."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x1A, 0x00


class LogicalUnitNotSupported(ScsiError):
    """No logical unit has that LUN on this I_T nexus."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x25, 0x00


class InvalidMessage(ScsiError):
    """A task attribute that can not be used now, such as ACA without an ACA condition."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x49, 0x00


class InvalidFieldInInformationUnit(ScsiError):
    """The transport announced an amount of data that does not fit the command."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x0E, 0x03


class CommandSequenceError(ScsiError):
    """A command that needs another before it."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x2C, 0x00


class OrwriteGenerationDoesNotMatch(ScsiError):
    """An ORWRITE that expects another generation of the bitmap than there is."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x2C, 0x0C


class SavingParametersNotSupported(ScsiError):
    """Saved values of mode pages were asked for; there are none."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x39, 0x00


# --- DATA PROTECT, ABORTED COMMAND, MISCOMPARE ------------------------------------------------------------------------


class WriteProtected(ScsiError):
    """A write to what may only be read: by the host's map, by the device, or by the state of a pair."""

    key, asc, ascq = SenseKey.DATA_PROTECT, 0x27, 0x00


class SoftwareWriteProtected(ScsiError):
    """A write while a host has SWP set in the control mode page."""

    key, asc, ascq = SenseKey.DATA_PROTECT, 0x27, 0x02


class SpaceAllocationFailed(ScsiError):
    """The storage underneath is thin and has no space left."""

    key, asc, ascq = SenseKey.DATA_PROTECT, 0x27, 0x07


class MiscompareDuringVerify(ScsiError):
    """VERIFY found other data; `information` is the byte offset of the first difference within the data-out."""

    key, asc, ascq = SenseKey.MISCOMPARE, 0x1D, 0x00


class CommunicationFailure(ScsiError):
    """The link to the external array died; whether the command was done is not known."""

    key, asc, ascq = SenseKey.ABORTED_COMMAND, 0x08, 0x00


class CommunicationTimeout(ScsiError):
    """No answer came in time from an array or a device; whether the command was done is not known."""

    key, asc, ascq = SenseKey.ABORTED_COMMAND, 0x08, 0x01


# --- UNIT ATTENTION ---------------------------------------------------------------------------------------------------


class UnitAttention(ScsiError):
    """Something that happened to the logical unit since this I_T nexus last heard of it."""

    def __init__(self, asc: int, ascq: int) -> None:
        self.key, self.asc, self.ascq = SenseKey.UNIT_ATTENTION, asc, ascq
        super().__init__()


# --- Pairs, ASC 80h ---------------------------------------------------------------------------------------------------


class AlreadyPaired(ScsiError):
    """One of the two has a pair with another logical unit."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x80, 0x01


class SizesDiffer(ScsiError):
    """The two logical units have different numbers of blocks."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x80, 0x02


class BlockLengthsDiffer(ScsiError):
    """The two logical units have different block lengths."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x80, 0x03


class SameStorage(ScsiError):
    """Both sides are, wholly or in part, the same storage."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x80, 0x04


class SecondaryInUse(ScsiError):
    """Another host has the secondary reserved, here or at the array, or an ACL maps it read-write to another host."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x80, 0x05


class PairSideNotReady(ScsiError):
    """The primary or the secondary can not serve now."""

    key, asc, ascq = SenseKey.NOT_READY, 0x80, 0x06


class PairFenceRefused(ScsiError):
    """The external array refused the reservation that a pair needs."""

    key, asc, ascq = SenseKey.ABORTED_COMMAND, 0x80, 0x07


class NoSuchPair(ScsiError):
    """No pair has that number or logical unit."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x80, 0x08


class PairStateForbids(ScsiError):
    """The pair exists; in its present state the command is not allowed."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x80, 0x09


class NotMirrored(ScsiError):
    """The write could not be mirrored (by fence level), or its mark could not be made stable."""

    key, asc, ascq = SenseKey.HARDWARE_ERROR, 0x80, 0x0A


class TooManyPairs(ScsiError):
    """As many pairs as there can be exist already."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x80, 0x0B


# --- Acquisitions, ASC 81h --------------------------------------------------------------------------------------------


class NoSuchVirtualDevice(ScsiError):
    """No virtual device in the host's LUN map has that number or id."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x81, 0x01


class AcquiredByAnotherHost(ScsiError):
    """Another host has that acquisition id, for a virtual device in the asker's LUN map."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x81, 0x03


class NoSuchAcquisition(ScsiError):
    """No acquisition has that id."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x81, 0x04


class AcquisitionLimitReached(ScsiError):
    """The host has as many acquisitions, or asks for as many blocks, as it may not."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x81, 0x05


class AcquisitionFenceRefused(ScsiError):
    """The external array refused the reservation that an acquisition needs."""

    key, asc, ascq = SenseKey.ABORTED_COMMAND, 0x81, 0x06


class AcquiredDataNotReady(ScsiError):
    """The acquisition is still fetching its data."""

    key, asc, ascq = SenseKey.NOT_READY, 0x81, 0x07


class AcquisitionIdInUse(ScsiError):
    """The host has an acquisition by that id already."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x81, 0x08


class NoSuchRegion(ScsiError):
    """No region has that number, or it does not hold the range."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x81, 0x09


# --- Persistent reservations ------------------------------------------------------------------------------------------


class InvalidReleaseOfReservation(ScsiError):
    """RELEASE names another type than the reservation that the host holds."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x26, 0x04


class InsufficientRegistrationResources(ScsiError):
    """More registrations than one logical unit has room for."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x55, 0x04


# --- Third-party copies -----------------------------------------------------------------------------------------------


class TooManyCscdDescriptors(ScsiError):
    """More copy sources and destinations than one EXTENDED COPY may name."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x26, 0x06


class UnsupportedCscdDescriptor(ScsiError):
    """A copy source or destination is described in a way that is not supported."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x26, 0x07


class TooManySegmentDescriptors(ScsiError):
    """More segments than one EXTENDED COPY may have."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x26, 0x08


class UnsupportedSegmentDescriptor(ScsiError):
    """A segment of a kind that is not supported."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x26, 0x09


class InlineDataLengthExceeded(ScsiError):
    """An EXTENDED COPY brings data of its own, of which it may have none."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x26, 0x0B


class OperationInProgress(ScsiError):
    """A copy by that list identifier is under way."""

    key, asc, ascq = SenseKey.ILLEGAL_REQUEST, 0x00, 0x16


class CopyAborted(ScsiError):
    """A segment that can not be copied as it is described."""

    key, asc, ascq = SenseKey.COPY_ABORTED, 0x00, 0x00


class ThirdPartyDeviceFailure(ScsiError):
    """The source or the destination refused a command of the copy manager, or failed."""

    key, asc, ascq = SenseKey.COPY_ABORTED, 0x0D, 0x01


class CopyTargetNotReachable(ScsiError):
    """A source or destination that is not among the logical units which the host sees."""

    key, asc, ascq = SenseKey.COPY_ABORTED, 0x0D, 0x02


# --- Status without sense ---------------------------------------------------------------------------------------------


class StatusError(Exception):
    """A command that ends with a status other than CHECK CONDITION; there is no sense data."""

    status: int

    def __init__(self, message: str = "") -> None:
        super().__init__(message or type(self).__name__)


class Busy(StatusError):
    """Try again later."""

    status = Status.BUSY


class TaskSetFull(StatusError):
    """There is no room for one more command."""

    status = Status.TASK_SET_FULL


class ReservationConflict(StatusError):
    """Another I_T nexus, or another initiator of the external array, has a reservation that forbids the command."""

    status = Status.RESERVATION_CONFLICT
