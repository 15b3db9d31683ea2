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

from tests.support.annexd import Annexd
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


def test_every_test_of_unmapping_passes_on_a_thin_external_unit(tmp_path: Path) -> None:
    suites = ("Unmap", "WriteSame10", "WriteSame16", "GetLBAStatus", "ReadCapacity16", "Inquiry")
    with external_unit(tmp_path, thin_provisioning="1", lbppbe="0") as annexd:
        output = run(annexd, ",".join(f"SCSI.{suite}.*" for suite in suites))
        assert "Traceback" not in annexd.log()
    ran, passed, failed = counted(output, "tests")
    assert (ran, passed, failed) == (37, 37, 0), output
    assert "Logical unit is fully provisioned" not in output
    assert "UNMAP is not implemented" not in output
