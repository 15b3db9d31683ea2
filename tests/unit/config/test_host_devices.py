"""The ways to a logical unit: what annexhost makes of PyScsi's devices and libiscsi."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
import sgio

from config.host import disk_device, iscsi_device
from config.host.disk_device import DiskDevice
from config.host.errors import Unreachable
from config.host.refusals import refusal, sense_of
from config.host.scsi_device import CHECK_CONDITION, RESERVATION_CONFLICT, ArrayCommand, CommandFailed
from scsi import array_commands as codec
from scsi.array_commands import ArrayIn, ArrayInCdb, ArrayOut, ArrayOutCdb
from scsi.errors import NoSuchPair
from scsi.sense import encode_sense

IN = codec.encode_array_in(ArrayInCdb(ArrayIn.REPORT_PAIRS, 5, 0, 64))
OUT = codec.encode_array_out(ArrayOutCdb(ArrayOut.ACQUIRE_EXTERNAL_DATA, 5, 1, 48))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskDevice:
    """A disk whose path stands for a device; SG_IO is replaced by each test."""
    monkeypatch.setattr(DiskDevice, "open", lambda self: setattr(self, "_file", None))
    return DiskDevice("/dev/sdx")


# --- Commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cdb", [IN, OUT])
def test_a_vendor_command_is_one_that_pyscsi_can_carry(cdb: bytes) -> None:
    command = ArrayCommand(cdb, b"out", 64)
    assert bytes(command.cdb) == cdb
    assert command.dataout == b"out"
    assert command.datain == bytes(64)
    assert command.opcode.value == cdb[0]


# --- SG_IO ------------------------------------------------------------------------------------------------------------


def test_a_disk_gets_the_command_and_gives_what_came(disk: DiskDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(_file: object, cdb: bytearray, data_out: bytearray, data_in: bytearray, _sense_bytes: int) -> int:
        assert bytes(cdb) == IN
        assert data_out == b""
        data_in[:10] = b"0123456789"
        return 54  # the residual count

    monkeypatch.setattr(sgio, "execute", execute)
    command = ArrayCommand(IN, data_in_bytes=64)
    disk.execute(command)
    assert command.datain == b"0123456789"


def test_a_disks_check_condition_is_raised_with_its_sense(disk: DiskDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*_arguments: Any) -> int:
        raise sgio.CheckConditionError(encode_sense(NoSuchPair()))

    monkeypatch.setattr(sgio, "execute", execute)
    with pytest.raises(CommandFailed) as caught:
        disk.execute(ArrayCommand(IN, data_in_bytes=64))
    assert caught.value.status == CHECK_CONDITION
    assert sense_of(caught.value)[:3] == (0x05, 0x80, 0x08)


def test_a_disks_failure_without_sense_is_a_reservation_conflict(
    disk: DiskDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*_arguments: Any) -> int:
        raise sgio.UnspecifiedError

    monkeypatch.setattr(sgio, "execute", execute)
    with pytest.raises(CommandFailed) as caught:
        disk.execute(ArrayCommand(OUT, bytes(48)))
    assert caught.value.status == RESERVATION_CONFLICT


def test_a_disk_without_sg_io_is_unreachable(disk: DiskDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*_arguments: Any) -> int:
        raise OSError(25, "Inappropriate ioctl for device")

    monkeypatch.setattr(sgio, "execute", execute)
    with pytest.raises(Unreachable, match="Inappropriate"):
        disk.execute(ArrayCommand(OUT, bytes(48)))


def test_a_disk_that_can_not_be_opened_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match="No such file"):
        disk_device.DiskDevice("/dev/no-such-disk")


# --- libiscsi ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "sense"),
    [
        (b"", b""),
        (b"\0", b""),
        (b"\0\0", b""),
        (b"\0\3abc", b"abc"),
        (b"\0\3abcdef", b"abc"),
        (b"\0\xffabc", b"abc"),
    ],
)
def test_sense_is_cut_out_of_the_response_whatever_its_length_says(raw: bytes, sense: bytes) -> None:
    task = iscsi_device._Task()
    buffer = (ctypes.c_ubyte * max(len(raw), 1))(*raw)
    task.datain.size = len(raw)
    task.datain.data = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ubyte))
    assert iscsi_device._sense_bytes(task) == sense


def test_the_task_structure_is_laid_out_as_libiscsi_compiles_it() -> None:
    # offsetof() in C on x86-64 and arm64: the three one-bit fields of scsi_sense take one byte.
    assert iscsi_device._Task.residual_status.offset == 32
    assert iscsi_device._Task.residual.offset == 40
    assert iscsi_device._Task.sense.offset == 48
    assert ctypes.sizeof(iscsi_device._Sense) == 16
    assert iscsi_device._Task.datain.offset == 64


def test_a_host_without_libiscsi_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    iscsi_device._library.cache_clear()
    with pytest.raises(Unreachable, match="libiscsi7"):
        iscsi_device._library()
    iscsi_device._library.cache_clear()


# --- Words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        (CommandFailed(0x18), "RESERVATION CONFLICT"),
        (CommandFailed(0x08), "BUSY"),
        (CommandFailed(0x28), "TASK SET FULL"),
        (CommandFailed(0x40), "status 40h"),
        (CommandFailed(CHECK_CONDITION, b""), "can not be read"),
        (CommandFailed(CHECK_CONDITION, b"\xff" * 18), "can not be read"),
        (CommandFailed(CHECK_CONDITION, encode_sense(NoSuchPair(), descriptor=True)), "05/80/08"),
    ],
)
def test_every_failure_has_words(failed: CommandFailed, words: str) -> None:
    assert words in str(refusal(failed))
