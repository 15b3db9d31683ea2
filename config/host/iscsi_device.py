"""A LUN of an iSCSI target, by libiscsi.

PyScsi has such a device, on top of cython-iscsi 1.0, but the two together can not do what a tool that explains
refusals needs: the InitiatorName is always the URL, there is no sense data, no residual count and no time-out, a log-in
fails whenever the LUN is not ready, as one behind an array that is away. The functions for all of that are in libiscsi
itself, so this device calls them through ctypes, and keeps PyScsi's shape (`execute(command)`, context manager).
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import select
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from pyscsi.pyiscsi.iscsi_device import ISCSIDevice
from pyscsi.pyscsi.scsi_command import SCSICommand
from pyscsi.pyscsi.scsi_enum_command import spc

from config.host.address import IscsiAddress
from config.host.errors import Unreachable
from config.host.scsi_device import CHECK_CONDITION, COMMAND_TIMEOUT_S, GOOD, CommandFailed

LOGIN_TIMEOUT_S = 15
LOGOUT_TIMEOUT_S = 5

# libiscsi's own codes for a callback stand above every SCSI status.
_FIRST_TRANSPORT_STATUS = 0x100
_SESSION_NORMAL = 2
_DIGEST_NONE_OR_CRC32C = 1
_XFER_NONE, _XFER_READ, _XFER_WRITE = range(3)
_RESIDUAL_UNDERFLOW = 1


class _Sense(ctypes.Structure):
    # C packs the three one-bit fields of `flags` into a byte; ctypes would give them four.
    _fields_ = (
        ("error_type", ctypes.c_ubyte),
        ("key", ctypes.c_int),
        ("ascq", ctypes.c_int),
        ("flags", ctypes.c_ubyte),
        ("bit_pointer", ctypes.c_ubyte),
        ("field_pointer", ctypes.c_uint16),
    )


class _Data(ctypes.Structure):
    _fields_ = (("size", ctypes.c_int), ("data", ctypes.POINTER(ctypes.c_ubyte)))


class _Task(ctypes.Structure):
    """The first members of struct scsi_task of libiscsi.so.7 to .9; only libiscsi allocates one."""

    _fields_ = (
        ("status", ctypes.c_int),
        ("cdb_size", ctypes.c_int),
        ("xfer_dir", ctypes.c_int),
        ("expxferlen", ctypes.c_int),
        ("cdb", ctypes.c_ubyte * 16),
        ("residual_status", ctypes.c_int),
        ("residual", ctypes.c_size_t),
        ("sense", _Sense),
        ("datain", _Data),
    )


_TaskPointer = ctypes.POINTER(_Task)
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

# name → (result, arguments)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "iscsi_create_context": (ctypes.c_void_p, (ctypes.c_char_p,)),
    "iscsi_destroy_context": (ctypes.c_int, (ctypes.c_void_p,)),
    "iscsi_get_error": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "iscsi_set_targetname": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)),
    "iscsi_set_session_type": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "iscsi_set_header_digest": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "iscsi_set_initiator_username_pwd": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)),
    "iscsi_set_noautoreconnect": (None, (ctypes.c_void_p, ctypes.c_int)),
    "iscsi_set_timeout": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "iscsi_get_fd": (ctypes.c_int, (ctypes.c_void_p,)),
    "iscsi_which_events": (ctypes.c_int, (ctypes.c_void_p,)),
    "iscsi_service": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "iscsi_connect_async": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p, _Callback, ctypes.c_void_p)),
    "iscsi_login_async": (ctypes.c_int, (ctypes.c_void_p, _Callback, ctypes.c_void_p)),
    "iscsi_logout_async": (ctypes.c_int, (ctypes.c_void_p, _Callback, ctypes.c_void_p)),
    "iscsi_scsi_command_async": (
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_int, _TaskPointer, _Callback, ctypes.c_void_p, ctypes.c_void_p),
    ),
    "scsi_create_task": (_TaskPointer, (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)),
    "scsi_task_add_data_in_buffer": (ctypes.c_int, (_TaskPointer, ctypes.c_int, ctypes.c_void_p)),
    "scsi_task_add_data_out_buffer": (ctypes.c_int, (_TaskPointer, ctypes.c_int, ctypes.c_void_p)),
    "scsi_free_scsi_task": (None, (_TaskPointer,)),
}


@cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("iscsi")
    if name is None:
        raise Unreachable("libiscsi is not installed (on Debian: apt install libiscsi7)")
    library = ctypes.CDLL(name)
    for function, (result, arguments) in _FUNCTIONS.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


class IscsiDevice(ISCSIDevice):  # type: ignore[misc]  # PyScsi has no types
    """A session of our own with one target; commands go to the LUN of its address."""

    def __init__(self, address: IscsiAddress, initiator_name: str) -> None:
        """Connect and log in.

        Raises:
            Unreachable: no connection, or the log-in was refused; the message has the target's reason.
        """
        self._opcodes = spc
        self._file_name = str(address)
        self._address = address
        self._library = _library()
        self._finished: list[int] = []  # the status of the one operation that runs, once it has ended
        # Kept for as long as the context: libiscsi calls it for whatever is outstanding when that is destroyed.
        self._callback = _Callback(self._note_finished)
        self._logged_in = False
        self._context = self._library.iscsi_create_context(initiator_name.encode())
        if not self._context:
            raise Unreachable("libiscsi has no memory for a session")
        try:
            self._log_in()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Log out, so that the target need not wait for a time-out to forget this session."""
        if not self._context:
            return
        if self._logged_in:
            self._logged_in = False
            with contextlib.suppress(Unreachable):
                self._run("log-out", LOGOUT_TIMEOUT_S, self._library.iscsi_logout_async)
        self._library.iscsi_destroy_context(self._context)
        self._context = None

    def execute(self, command: SCSICommand) -> None:
        """Run a command (see `ScsiDevice`)."""
        library = self._library
        data_out = bytes(command.dataout)
        data_in = (ctypes.c_ubyte * len(command.datain))()
        task = library.scsi_create_task(len(command.cdb), bytes(command.cdb), *_transfer(data_out, data_in))
        if data_out:
            library.scsi_task_add_data_out_buffer(task, len(data_out), data_out)
        elif data_in:
            library.scsi_task_add_data_in_buffer(task, len(data_in), data_in)

        def send(context: int, callback: object, private: None) -> int:
            return int(library.iscsi_scsi_command_async(context, self._address.lun, task, callback, None, private))

        timeout_s = getattr(command, "timeout_s", COMMAND_TIMEOUT_S)  # PyScsi's own commands have none
        status = self._run("command", timeout_s, send)
        # Not in a `finally`: after a time-out the task is still libiscsi's, and goes with the context.
        try:
            if status != GOOD:
                raise CommandFailed(status, _sense_bytes(task.contents) if status == CHECK_CONDITION else b"")
            missing = task.contents.residual if task.contents.residual_status == _RESIDUAL_UNDERFLOW else 0
            command.datain = bytearray(memoryview(data_in)[: max(0, len(data_in) - missing)])
        finally:
            library.scsi_free_scsi_task(task)

    def _log_in(self) -> None:
        library, context, address = self._library, self._context, self._address
        library.iscsi_set_targetname(context, address.target.encode())
        library.iscsi_set_session_type(context, _SESSION_NORMAL)
        library.iscsi_set_header_digest(context, _DIGEST_NONE_OR_CRC32C)
        library.iscsi_set_noautoreconnect(context, 1)  # what a command did before a reconnect can not be told after it
        library.iscsi_set_timeout(context, 0)  # `_run` keeps the time
        if address.user:
            library.iscsi_set_initiator_username_pwd(context, address.user.encode(), address.secret.encode())
        portal = address.portal.encode()

        def connect(context: int, callback: object, private: None) -> int:
            return int(library.iscsi_connect_async(context, portal, callback, private))

        # Not iscsi_full_connect: that sends TEST UNIT READY and gives up on any LUN that is not ready.
        self._run("connection", LOGIN_TIMEOUT_S, connect)
        self._run("log-in", LOGIN_TIMEOUT_S, library.iscsi_login_async)
        self._logged_in = True

    def _run(self, what: str, timeout_s: float, begin: Callable[[int, object, None], int]) -> int:
        """Begin one operation, and serve the socket until its callback came.

        Args:
            what: the operation, for the message when it fails.
            timeout_s: bound of the whole of it.
            begin: libiscsi's function, called with context, callback and private data.

        Returns:
            The SCSI status of a command, GOOD for what is none.

        Raises:
            Unreachable: the operation or the connection failed, or there was no answer in time.
        """
        library, context = self._library, self._context
        self._finished.clear()
        failed = begin(context, self._callback, None) != 0
        deadline = time.monotonic() + timeout_s
        while not failed and not self._finished:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise Unreachable(f"{self._address}: no answer to the {what} within {timeout_s:.0f} s")
            poll = select.poll()
            poll.register(library.iscsi_get_fd(context), library.iscsi_which_events(context))
            events = poll.poll(min(left_s, 1.0) * 1000)
            failed = library.iscsi_service(context, events[0][1] if events else 0) < 0
        status = self._finished[0] if self._finished else -1
        if not 0 <= status < _FIRST_TRANSPORT_STATUS:
            raise Unreachable(f"{self._address}: the {what} failed{self._reason()}")
        return status

    def _note_finished(self, _context: int, status: int, _data: int | None, _private: int | None) -> None:
        self._finished.append(status)

    def _reason(self) -> str:
        reason = (self._library.iscsi_get_error(self._context) or b"").decode("utf-8", "replace")
        words = " ".join("".join(c if c.isprintable() else " " for c in reason).split())
        if "reconnect" in words:
            words = "refused, or cut by the other side"  # libiscsi speaks of the reconnect that it was told not to make
        return f": {words}" if words else ""


def _transfer(data_out: bytes, data_in: ctypes.Array[ctypes.c_ubyte]) -> tuple[int, int]:
    if data_out:
        return _XFER_WRITE, len(data_out)
    if data_in:
        return _XFER_READ, len(data_in)
    return _XFER_NONE, 0


def _sense_bytes(task: _Task) -> bytes:
    """Take the sense data out of what came with the response: two bytes of length, then the sense."""
    raw = bytes(task.datain.data[: task.datain.size]) if task.datain.size > 2 else b""
    return raw[2 : 2 + int.from_bytes(raw[:2], "big")]
