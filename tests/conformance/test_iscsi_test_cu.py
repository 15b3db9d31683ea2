"""libiscsi's conformance suite against the running daemon: nothing fails, and only what is listed skips itself."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import Annexd
from tests.support.host import GOOD, Host
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

EXPECTED = Path(__file__).with_name("expected_skips.txt")
DISK_BYTES = 64 << 20
LIMIT_S = 110


@contextmanager
def local_unit(folder: Path) -> Iterator[Annexd]:
    # In memory, where a block is as good as a page: GetLBAStatus.UnmapSingle is wrong about larger physical blocks. It
    # asks for block 9 then, and takes 16 for the right answer.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        disk = Path(memory, "disk.img")
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        with Annexd(folder, ("--local", disk)) as annexd:
            yield annexd


@contextmanager
def external_unit(folder: Path, **parameters: str) -> Iterator[Annexd]:
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    with Tgt(folder) as array:
        array.add_lun(array.add_target("iqn.2026-11.org.example:array"), disk, parameters=parameters)
        url = f"iscsi://127.0.0.1:{array.port}/iqn.2026-11.org.example:array/1"
        with Annexd(folder, ("--array", url)) as annexd:
            yield annexd


@contextmanager
def paired_unit(folder: Path, **parameters: str) -> Iterator[tuple[Annexd, tuple[Path, Path]]]:
    """A pair of a local leg in memory and an external one, in PAIR; with the files under both."""
    remote = folder / "disk.img"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, Tgt(folder) as array:
        local = Path(memory, "disk.img")
        for disk in (local, remote):
            with disk.open("wb") as file:
                file.truncate(DISK_BYTES)
        array.add_lun(array.add_target("iqn.2026-11.org.example:array"), remote, parameters=parameters)
        url = f"iscsi://127.0.0.1:{array.port}/iqn.2026-11.org.example:array/1"
        with Annexd(folder, ("--local", local), ("--array", url)) as annexd:
            with Host(annexd.port) as host:
                assert create_pair(host, 1, FenceLevel.DATA).status == GOOD
                wait_for_pair(host, PairState.PAIR)
            yield annexd, (local, remote)


def run(annexd: Annexd, family: str) -> str:
    command = ["iscsi-test-cu", "--dataloss", f"--test={family}", annexd.url(0)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False)
    return done.stdout + done.stderr


def counted(output: str, what: str) -> tuple[int, int, int]:
    """Give how many ran, passed and failed, of CUnit's summary."""
    found = re.search(rf"^\s*{what}\s+\d+\s+(\d+)\s+(\d+)\s+(\d+)", output, re.MULTILINE)
    assert found, output[-2000:]
    return int(found[1]), int(found[2]), int(found[3])


def skips(output: str) -> dict[str, int]:
    return dict(Counter(reason.strip() for reason in re.findall(r"\[SKIPPED\](.*)", output)))


def expected_skips() -> dict[str, int]:
    lines = [line for line in EXPECTED.read_text().splitlines() if not line.startswith("#")]
    return {reason: int(count) for count, _, reason in (line.partition("\t") for line in lines)}


def test_every_test_passes_on_a_local_unit_and_only_what_is_listed_skips_itself(tmp_path: Path) -> None:
    with local_unit(tmp_path) as annexd:
        output = run(annexd, "ALL")
        assert "Traceback" not in annexd.log()
    ran, passed, failed = counted(output, "tests")
    assert (ran, passed, failed) == (230, 230, 0), output
    assert skips(output) == expected_skips()


def test_every_scsi_test_passes_on_an_external_unit(tmp_path: Path) -> None:
    with external_unit(tmp_path) as annexd:
        output = run(annexd, "SCSI")
        assert "Traceback" not in annexd.log()
    ran, passed, failed = counted(output, "tests")
    assert (ran, passed, failed) == (215, 215, 0), output


SUITES_THAT_UNMAP = ",".join(
    f"SCSI.{suite}.*" for suite in ("Unmap", "WriteSame10", "WriteSame16", "GetLBAStatus", "ReadCapacity16", "Inquiry")
)


def check_unmapping(output: str) -> None:
    ran, passed, failed = counted(output, "tests")
    assert (ran, passed, failed) == (37, 37, 0), output
    assert "Logical unit is fully provisioned" not in output
    assert "UNMAP is not implemented" not in output


def test_every_test_of_unmapping_passes_on_a_thin_external_unit(tmp_path: Path) -> None:
    with external_unit(tmp_path, thin_provisioning="1", lbppbe="0") as annexd:
        check_unmapping(run(annexd, SUITES_THAT_UNMAP))
        assert "Traceback" not in annexd.log()


@pytest.mark.parametrize("thin", ["0", "1"], ids=["plain array", "thin array"])
def test_every_test_of_unmapping_passes_on_a_pair_and_leaves_equal_legs(tmp_path: Path, thin: str) -> None:
    with paired_unit(tmp_path, thin_provisioning=thin, lbppbe="0") as (annexd, (local, remote)):
        check_unmapping(run(annexd, SUITES_THAT_UNMAP))
        assert "Traceback" not in annexd.log()
        with Host(annexd.port) as host:
            wait_for_pair(host, PairState.PAIR)
        assert local.read_bytes() == remote.read_bytes()
