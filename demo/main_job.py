"""The story of the demo: annex an array, read it, pair it, write while it copies, fence it, acquire from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import crc32c

from demo.second_host import write_one_block
from demo.steps import ROOT, DemoError, Outcome, Report, annexhost, blocks_that_differ, must
from tests.support.annexd import Annexd
from tests.support.loop_device import LoopDevice
from tests.support.tgt import Tgt

MIB = 1 << 20
DISK_BYTES = 64 * MIB
ARRAY_TARGET = "iqn.2026-11.org.example:old-array"
HOST = "iqn.2026-11.org.example:first-host"
STRANGER = "iqn.2026-11.org.example:stranger"
COPY_PACE_MIB_S = 16
COPY_LIMIT_S = 60.0
HOLDER_LIMIT_S = 15.0
LOCAL, PAIRED, ACQUIRED = 0, 1, 2  # the LUNs of annexd: the loop device, and two external LUs
ACQUIRE_LBA, ACQUIRE_BLOCKS, BLOCK_BYTES = 2048, 16384, 512


class Parts(NamedTuple):
    """What the demo runs on."""

    array: Tgt
    old_disk: Path  # the file under the array's LUN that is paired
    other_disk: Path  # the file under the array's other LUN
    local_disk: Path  # the loop device
    annexd: Annexd
    folder: Path

    def direct_url(self, lun: int) -> str:
        """Give the URL of an external LU at the array itself, without annex."""
        return f"iscsi://127.0.0.1:{self.array.port}/{ARRAY_TARGET}/{lun}"


def tell(report: Report, folder: Path, cleanup: ExitStack) -> None:
    """Tell the story from its beginning to its end.

    Raises:
        DemoError: a part of it could not be started, or went wrong in a way that nothing after it makes sense.
    """
    parts = start(report, folder, cleanup)
    read_old_data(report, parts)
    form_pair(report, parts)
    mirror(report, parts)
    survive_a_kill(report, parts)
    keep_second_host_out(report, parts)
    refuse_pairs(report, parts)
    acquire_and_transfer(report, parts)
    end_pair(report, parts)


def start(report: Report, folder: Path, cleanup: ExitStack) -> Parts:
    """Start the external array, the local disk and annexd."""
    report.step("1. An external array with old data, a local disk, and annexd in front of both")
    old_disk, other_disk, local_file = (folder / name for name in ("old.img", "other.img", "local.img"))
    for file in (old_disk, other_disk, local_file):
        file.write_bytes(os.urandom(DISK_BYTES))
    array = cleanup.enter_context(Tgt(folder))
    target = array.add_target(ARRAY_TARGET)
    array.add_lun(target, old_disk, lun=1)
    array.add_lun(target, other_disk, lun=2)
    report.say(f"external array: tgt, {ARRAY_TARGET}, two LUs of 64 MiB")
    loop = cleanup.enter_context(LoopDevice(local_file))
    report.say(f"local disk: loop device {loop.path}, 64 MiB")
    external = [f"iscsi://127.0.0.1:{array.port}/{ARRAY_TARGET}/{lun}" for lun in (1, 2)]
    annexd = Annexd(folder, ("--local", loop.path), ("--array", external[0]), ("--array", external[1]))
    cleanup.enter_context(annexd)
    report.say("annexd try:")
    report.say("\n".join(annexd.lines))
    report.claim("annexd serves the loop device and both external LUs", holds=len(annexd.lines) == 4)
    return Parts(array, old_disk, other_disk, loop.path, annexd, folder)


def read_old_data(report: Report, parts: Parts) -> None:
    """Read the array's old data through annex."""
    report.step("2. A host reads the external array's old data through annex (QEMU's initiator)")
    copy = parts.folder / "copy.img"
    must("qemu-img", "convert", "-f", "raw", "-O", "raw", parts.annexd.url(PAIRED), copy)
    different = blocks_that_differ(copy, parts.old_disk, DISK_BYTES)
    report.claim("64 MiB read through annex are the bytes in the array's own file", holds=different == 0)
    copy.unlink()


def form_pair(report: Report, parts: Parts) -> None:
    """Pair the local LU with the external one, and write while the copy runs."""
    report.step("3. The host pairs the two by a SCSI command, and goes on writing while the copy runs")
    create = ["pair", "create", parts.annexd.url(LOCAL), "--secondary", str(PAIRED), "--fence", "data"]
    created = annexhost("--initiator", HOST, *create, "--pace", str(COPY_PACE_MIB_S), "--label", "demo")
    tell_outcome(report, created)
    report.claim("annexhost pair create is answered GOOD", holds=created.code == 0, detail=created.errors)
    before = pair(parts)["state"]
    patterns = {0x5A: 1, 0xA5: 31, 0x3C: 62}  # byte → where, in MiB
    for value, at_mib in patterns.items():
        host_writes(parts, value, at_mib * MIB)
    after = pair(parts)["state"]
    report.claim(
        "the copy was running before and after these writes",
        holds=before == after == "COPY",
        detail=f"{before}, then {after}",
    )
    wait_for_pair(report, parts, "the copy ends, and the pair is in state PAIR")
    different = blocks_that_differ(parts.local_disk, parts.old_disk, DISK_BYTES)
    report.claim(
        "loop device and the array's own file are equal, block by block",
        holds=different == 0,
        detail=f"{different} of 4 KiB differ",
    )
    seen = [block_at(parts.old_disk, at_mib * MIB) == bytes([value]) * 4096 for value, at_mib in patterns.items()]
    report.claim("what the host wrote during the copy is on the array", holds=all(seen))


def mirror(report: Report, parts: Parts) -> None:
    """Write in PAIR."""
    report.step("4. In PAIR each write is on both before the host is told GOOD")
    host_writes(parts, 0x77, 8 * MIB)
    both = [block_at(disk, 8 * MIB) == b"\x77" * 4096 for disk in (parts.local_disk, parts.old_disk)]
    report.claim("a write is on the loop device and in the array's own file once it is answered", holds=all(both))


def survive_a_kill(report: Report, parts: Parts) -> None:
    """Kill annexd, and start it again."""
    report.step("5. annexd is killed with kill -9, and started again")
    host_writes(parts, 0x99, 40 * MIB)
    parts.annexd.kill()
    parts.annexd.start()
    wait_for_pair(report, parts, "after kill -9 and a restart the pair goes on by itself")
    both = [block_at(disk, 40 * MIB) == b"\x99" * 4096 for disk in (parts.local_disk, parts.old_disk)]
    different = blocks_that_differ(parts.local_disk, parts.old_disk, DISK_BYTES)
    report.claim("the last write is on both sides, which are equal", holds=all(both) and not different)


def keep_second_host_out(report: Report, parts: Parts) -> None:
    """Write to the paired external LU as the second host."""
    report.step("6. A second host, logged in to the array directly, is kept out")
    status = write_one_block(parts.direct_url(1), 100)
    report.say(f"WRITE (10) of the second host to the paired external LU: {status}")
    report.claim(
        "the second host's write gets RESERVATION CONFLICT", holds=status == "RESERVATION CONFLICT", detail=status
    )


def refuse_pairs(report: Report, parts: Parts) -> None:
    """Ask for pairs that can not be."""
    report.step("7. Pairs that can not be are refused, with the reason")
    reasons = {
        "a pair of a LU that is paired already with another": (str(ACQUIRED), "05/80/01"),
        "a pair of a LU with itself": (str(LOCAL), "05/80/04"),
    }
    for text, (secondary, sense) in reasons.items():
        refused = annexhost("--initiator", HOST, "pair", "create", parts.annexd.url(LOCAL), "--secondary", secondary)
        tell_outcome(report, refused)
        report.claim(
            f"{text} is refused with {sense}",
            holds=refused.code == 1 and sense in refused.errors,
            detail=refused.errors,
        )


def acquire_and_transfer(report: Report, parts: Parts) -> None:
    """Read the other external LU in two commands, with the second host kept out meanwhile."""
    report.step("8. A two-command read of the other external LU: acquire, then transfer")
    url, output = parts.annexd.url(ACQUIRED), parts.folder / "acquired"
    before = write_one_block(parts.direct_url(2), 0)
    with parts.other_disk.open("rb") as file:
        file.seek(ACQUIRE_LBA * BLOCK_BYTES)
        expected = file.read(ACQUIRE_BLOCKS * BLOCK_BYTES)
    with held_acquisition(url) as acquired:
        report.say(f"acquisition {acquired['id']}: {acquired['state']}, CRC32C {acquired['crc32c']}")
        during = write_one_block(parts.direct_url(2), 0)
        equal = int(acquired["crc32c"], 16) == crc32c.crc32c(expected)
        report.claim("the checksum is that of the array's own file", holds=equal)
        identifier = str(acquired["id"])
        refused = annexhost("--initiator", STRANGER, "transfer", url, identifier, "-o", parts.folder / "stolen")
        tell_outcome(report, refused)
        report.claim(
            "another host's transfer of it is refused with 05/81/03",
            holds=refused.code == 1 and "05/81/03" in refused.errors,
            detail=refused.errors,
        )
        transferred = annexhost("--initiator", HOST, "transfer", url, identifier, "-o", output)
        tell_outcome(report, transferred)
    report.claim(
        "the host that acquired it gets exactly these bytes",
        holds=transferred.code == 0 and output.read_bytes() == expected,
        detail=transferred.errors,
    )
    after = write_one_block(parts.direct_url(2), 0)
    report.claim(
        "the second host is kept out from the acquisition's start to its end, and only then",
        holds=(before, during, after) == ("GOOD", "RESERVATION CONFLICT", "GOOD"),
        detail=f"{before}, {during}, {after}",
    )


def end_pair(report: Report, parts: Parts) -> None:
    """Delete the pair."""
    report.step("9. The pair is deleted; both sides keep their data, and the fence is gone")
    deleted = annexhost("--initiator", HOST, "pair", "delete", parts.annexd.url(LOCAL))
    tell_outcome(report, deleted)
    different = blocks_that_differ(parts.local_disk, parts.old_disk, DISK_BYTES)
    report.claim(
        "both sides are equal after all of it",
        holds=deleted.code == 0 and different == 0,
        detail=f"{deleted.errors} {different} of 4 KiB differ",
    )
    status = write_one_block(parts.direct_url(1), 100)
    report.claim("the second host can write again", holds=status == "GOOD", detail=status)
    code = parts.annexd.stop()
    report.claim("annexd stops cleanly on SIGTERM", holds=code == 0, detail=f"exit code {code}")


# --- what the story is told with ---


def pair(parts: Parts) -> dict[str, Any]:
    """Give the one pair as `annexhost --json pair display` shows it."""
    shown = annexhost("--json", "--initiator", HOST, "pair", "display", parts.annexd.url(LOCAL))
    pairs = json.loads(shown.output).get("pairs", []) if shown.code == 0 else []
    if len(pairs) != 1:
        raise DemoError(f"annexhost pair display: {shown.errors or shown.output}")
    found: dict[str, Any] = pairs[0]
    return found


def wait_for_pair(report: Report, parts: Parts, claim: str) -> None:
    """Watch a copy to its end, and claim that it has led to PAIR."""
    deadline = time.monotonic() + COPY_LIMIT_S
    while (row := pair(parts))["state"] == "COPY" and time.monotonic() < deadline:
        report.say(f"COPY, in sync {row['in_sync_percent']} %, {row['out_of_sync_blocks']} blocks to go")
        time.sleep(1)
    report.claim(claim, holds=row["state"] == "PAIR", detail=row["state"])


def host_writes(parts: Parts, value: int, offset: int) -> None:
    """Write 4 KiB of one byte to the paired local LU, with QEMU's initiator."""
    must("qemu-io", "-f", "raw", "-c", f"write -P {value} {offset} 4096", parts.annexd.url(LOCAL))


def block_at(disk: Path, offset: int) -> bytes:
    """Read 4 KiB of a file or device."""
    with disk.open("rb") as file:
        file.seek(offset)
        return file.read(4096)


def tell_outcome(report: Report, outcome: Outcome) -> None:
    """Tell what annexhost printed."""
    report.say(outcome.output)
    report.say(outcome.errors)


@contextmanager
def held_acquisition(url: str) -> Iterator[dict[str, Any]]:
    """Acquire blocks, and stay logged in until they have been transferred."""
    words = ["--json", "--initiator", HOST, "acquire", url, "--lba", str(ACQUIRE_LBA), "--blocks", str(ACQUIRE_BLOCKS)]
    command = [sys.executable, str(ROOT / "bin" / "annexhost"), *words, "--hold"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            line = holder.stdout.readline()
            if not line:
                raise DemoError(f"annexhost acquire: {holder.stderr.read()}")
            found: dict[str, Any] = json.loads(line)
            if "error" in found:
                raise DemoError(f"annexhost acquire: {found['error']['message']}")
            yield found["acquisitions"][0]
            holder.wait(timeout=HOLDER_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise DemoError("annexhost acquire --hold did not end with its acquisition") from None
        finally:
            holder.kill()
