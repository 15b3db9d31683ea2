"""`annexhost acquire`, `transfer` and `end`: the read in two commands.

An acquisition ends when the last session of its host does. Through a disk of this host the kernel has the session, and
it stays; over iscsi:// it is annexhost's own, so `acquire` can hand the data over in the same run (`--output`), or stay
logged in (`--hold`) while another run with the same InitiatorName does.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from crc32c import crc32c

from config.host.array import Array
from config.host.errors import HostToolError, Refused, Usage, WrongData
from config.host.presentation import Answer, Document, acquisition_document, describe_acquisitions, size_words
from config.host.scsi_device import CHECK_CONDITION
from config.host.verbs import POLL_INTERVAL_S, Run, find_virtual_device, resolve_naa
from scsi.array_commands import (
    IMMEDIATE,
    Acquire,
    AcquisitionRow,
    AcquisitionState,
    ArrayOut,
    encode_acquire,
)

MOST_U32 = 2**32 - 1
NO_SUCH_ACQUISITION = (0x5, 0x81, 0x04)
STDOUT = "-"


def acquire(run: Run) -> Answer | None:
    """`annexhost acquire`: have the array fetch blocks, as they are now."""
    options = run.options
    with run.array() as array:
        naa = array.own_naa() if options.vdev is None else resolve_naa(run, array, options.vdev)
        blocks = options.blocks
        if blocks is None:
            blocks = min(max(0, find_virtual_device(array, naa).blocks - options.lba), MOST_U32)
        identifier = options.id or 1 + secrets.randbelow(MOST_U32)
        parameters = encode_acquire(Acquire(naa, options.lba, blocks, options.region, options.lifetime))
        # Immediate, and then a look now and again: the kernel gives a command 30 s, reading much may take longer.
        array.order(ArrayOut.ACQUIRE_EXTERNAL_DATA, identifier, IMMEDIATE, parameters)
        row = find_acquisition(array, identifier) if options.no_wait else _wait(run, array, identifier)
        if options.output is not None:
            return _hand_over(run, array, row, options.output)
        answer = describe_acquisitions([row])
        if options.hold:
            run.terminal.answer(answer)
            _hold(run, array, identifier)
            return None
        if run.is_own_session():
            run.terminal.note(
                "note: the array ends this acquisition with the last session of this host, and that may be the one "
                "that ends now; --output hands the data over at once, --hold stays logged in"
            )
        return answer


def transfer(run: Run) -> Answer:
    """`annexhost transfer`: fetch what was acquired, and compare its checksum with the array's."""
    with run.array() as array:
        return _hand_over(run, array, _wait(run, array, run.options.id), run.options.output)


def end(run: Run) -> Answer:
    """`annexhost end`: drop the data and the fence."""
    with run.array() as array:
        array.order(ArrayOut.END_ACQUISITION, run.options.id)
        return Answer({"ended": run.options.id}, f"acquisition {run.options.id} has ended")


def find_acquisition(array: Array, identifier: int) -> AcquisitionRow:
    """Find one of this host's acquisitions.

    Raises:
        Refused: there is none by that id.
    """
    for row in array.acquisitions():
        if row.identifier == identifier:
            return row
    # Asked for, so that the array says itself whose it is, if it is anybody's.
    array.transfer(identifier, 0, 0)
    raise Refused(f"the array reports no acquisition {identifier}", CHECK_CONDITION, NO_SUCH_ACQUISITION)


def _wait(run: Run, array: Array, identifier: int) -> AcquisitionRow:
    while (row := find_acquisition(array, identifier)).state == AcquisitionState.ACQUIRING:
        run.sleep(POLL_INTERVAL_S)
    return row


def _hold(run: Run, array: Array, identifier: int) -> None:
    """Stay logged in until the acquisition has ended."""
    run.terminal.note("holding the session until the acquisition has ended; interrupt to give it up")
    while any(row.identifier == identifier for row in array.acquisitions()):
        run.sleep(1.0)


def _hand_over(run: Run, array: Array, row: AcquisitionRow, output: str) -> Answer:
    """Fetch blocks of an acquisition into a file or to stdout.

    Raises:
        Refused: the acquisition failed; the message has the reason that the array keeps.
        WrongData: the array sent nothing where it has something, or the checksum differs.
    """
    first = getattr(run.options, "offset", 0)
    count = getattr(run.options, "count", None)
    last = row.blocks if count is None else min(row.blocks, first + count)
    if first < 0 or first >= last:
        raise Usage(f"--offset and --count leave nothing of {row.blocks} acquired blocks")
    most_bytes = array.capabilities().most_transfer_bytes
    if row.state == AcquisitionState.FAILED or most_bytes < row.block_bytes:
        array.transfer(row.identifier, first, row.block_bytes)  # the array's own refusal, with the stored sense
        raise WrongData("the array gives no data, and no reason")
    whole = first == 0 and last == row.blocks
    checksum = 0
    with _opened(output) as file, run.terminal.progress("transferring") as set_progress:
        block = first
        while block < last:
            data = array.transfer(row.identifier, block, min(most_bytes, (last - block) * row.block_bytes))
            if not data or len(data) % row.block_bytes:
                raise WrongData(f"the array sent {len(data)} bytes, which are no whole blocks of {row.block_bytes}")
            file.write(data)
            checksum = crc32c(data, checksum)
            block += len(data) // row.block_bytes
            set_progress(100 * (block - first) / (last - first), size_words((block - first) * row.block_bytes))
        if whole and checksum != row.crc32c:
            # Inside, so that no file comes to be.
            raise WrongData(f"the CRC32C of the data is {checksum:08x}, the array says {row.crc32c:08x}; do not use it")
    return _transferred(row, first, last, checksum if whole else None, output)


def _transferred(row: AcquisitionRow, first: int, last: int, checksum: int | None, output: str) -> Answer:
    place = "stdout" if output == STDOUT else output
    size_bytes = (last - first) * row.block_bytes
    document: Document = {
        "transferred": acquisition_document(row)
        | {
            "first_block": first,
            "transferred_blocks": last - first,
            "transferred_bytes": size_bytes,
            "output": place,
            "crc32c_checked": checksum is not None,
        }
    }
    verdict = (
        "its CRC32C was not compared, as this is not all of the acquisition"
        if checksum is None
        else f"CRC32C {checksum:08x}, the same as the array's"
    )
    return Answer(document, f"{last - first} blocks ({size_words(size_bytes)}) to {place}; {verdict}")


@contextmanager
def _opened(output: str) -> Iterator[BinaryIO]:
    """Open the output; a file is there under its name only when all of it was written."""
    if output == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    if path.exists() and not path.is_file():
        # A device or a pipe: written in place, there is nothing to rename.
        with _writable(path) as file:
            yield file
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _writable(partial) as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise HostToolError(f"{output}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _writable(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise Usage(f"{path} can not be written: {error.strerror}") from error
