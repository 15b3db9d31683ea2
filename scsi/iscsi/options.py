"""What a target is willing to do: limits, times, and what it wants of each negotiated key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scsi.iscsi.keys import CRC32C, NONE, Value

KIBIBYTE = 1024
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """The options of a target; the defaults suit open-iscsi, libiscsi and QEMU.

    Attributes:
        max_recv_data_segment_length: declared to initiators, bytes.
        max_burst_length, first_burst_length: the most that is agreed to, bytes.
        initial_r2t: True forbids unsolicited Data-Out.
        immediate_data: False forbids data inside of commands.
        max_outstanding_r2t: R2Ts in flight for one command.
        header_digests, data_digests: what is accepted; without "None" a digest is required.
        window_commands: commands of one session in progress, without the immediate ones.
        max_immediate_commands: the same for immediate commands and task management functions.
        session_memory_bytes: data of one session in flight, both ways; commands above it wait in order.
        max_data_out_bytes: data of one write that is taken; must not be below what a logical unit takes at once.
        login_timeout_s: how long a connection may take to log in.
        ping_interval_s: how long a peer may be silent before it is pinged.
        ping_timeout_s: how long it may be silent after that.
        orphan_wait_s: how long the end of a login or logout waits for commands of the session that it ends; what is
            still done for them after that can not overtake newer commands, but the backend is stalled, and hosts must
            get in.
        abort_wait_s: how long the response to a reset waits for data that was asked for before it.
        max_pdu_errors: rejected or senseless PDUs on one connection before it is closed.
        receive_buffer_bytes: size of the receive buffer of a connection that has logged in.
    """

    max_recv_data_segment_length: int = 256 * KIBIBYTE
    max_burst_length: int = MEBIBYTE
    first_burst_length: int = 256 * KIBIBYTE
    initial_r2t: bool = False
    immediate_data: bool = True
    max_outstanding_r2t: int = 8
    header_digests: tuple[str, ...] = (NONE, CRC32C)
    data_digests: tuple[str, ...] = (NONE, CRC32C)
    default_time2wait: int = 2
    window_commands: int = 128
    max_immediate_commands: int = 32
    session_memory_bytes: int = 64 * MEBIBYTE
    max_data_out_bytes: int = 16 * MEBIBYTE
    login_timeout_s: float = 15.0
    ping_interval_s: float = 15.0
    ping_timeout_s: float = 15.0
    orphan_wait_s: float = 5.0
    abort_wait_s: float = 1.0
    max_pdu_errors: int = 64
    receive_buffer_bytes: int = 512 * KIBIBYTE

    def __post_init__(self) -> None:
        """Check what the session relies on, so that a single command always fits."""
        assert 512 <= self.max_recv_data_segment_length < 2**24
        assert 512 <= self.first_burst_length <= self.max_burst_length < 2**24
        assert self.first_burst_length <= self.max_data_out_bytes <= self.session_memory_bytes
        assert self.window_commands >= 1
        assert self.max_immediate_commands >= 1
        assert self.max_outstanding_r2t >= 1

    def wanted(self) -> Mapping[str, Value | tuple[str, ...]]:
        """Return what is wanted of each key that is negotiated.

        One connection a session, no error recovery, no markers, everything in order: annex does nothing else. A session
        does not outlive its connection, therefore the Time2Retain.
        """
        return {
            "HeaderDigest": self.header_digests,
            "DataDigest": self.data_digests,
            "MaxConnections": 1,
            "InitialR2T": self.initial_r2t,
            "ImmediateData": self.immediate_data,
            "MaxBurstLength": self.max_burst_length,
            "FirstBurstLength": self.first_burst_length,
            "DefaultTime2Wait": self.default_time2wait,
            "DefaultTime2Retain": 0,
            "MaxOutstandingR2T": self.max_outstanding_r2t,
            "DataPDUInOrder": True,
            "DataSequenceInOrder": True,
            "ErrorRecoveryLevel": 0,
            "TaskReporting": ("RFC3720", "ResponseFence"),
            "iSCSIProtocolLevel": 1,
            "IFMarker": False,
            "OFMarker": False,
        }
