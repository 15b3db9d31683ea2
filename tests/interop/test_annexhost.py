"""annexhost against a running annexd; tgt is the external array, and a second host is cabled to it directly."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyscsi.pyscsi.scsi_cdb_testunitready import TestUnitReady as ReadyCommand
from pyscsi.pyscsi.scsi_cdb_write10 import Write10
from pyscsi.pyscsi.scsi_command import SCSICommand
from pyscsi.pyscsi.scsi_enum_command import sbc, spc

from config.host.address import IscsiAddress, parse_address
from config.host.iscsi_device import IscsiDevice
from config.host.refusals import sense_of
from config.host.scsi_device import RESERVATION_CONFLICT, CommandFailed
from tests.support.annexd import ROOT, Annexd
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

BLOCK = 512
BLOCKS = 16384  # 8 MiB
OLD_TARGET = "iqn.2026-11.org.example:old"
ALICE, BOB = "iqn.2026-11.org.example:alice", "iqn.2026-11.org.example:bob"
SECOND_HOST = "iqn.2026-11.org.example:second-host"
LIMIT_S = 20.0
UNIT_ATTENTION = 0x6  # sense key
HOLDING = "holding the session"


class Result(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def annexhost(*words: str, host: str = ALICE) -> Result:
    done = subprocess.run(_command(words, host), capture_output=True, timeout=LIMIT_S)
    err = done.stderr.decode()
    assert "Traceback" not in err, err
    return Result(done.returncode, done.stdout, err)


def _command(words: tuple[str, ...], host: str) -> list[str]:
    return [sys.executable, str(ROOT / "bin" / "annexhost"), "--initiator", host, *words]


class SecondHost:
    """A host that is logged in to the external array itself."""

    def __init__(self, tgt: Tgt) -> None:
        address = parse_address(f"iscsi://127.0.0.1:{tgt.port}/{OLD_TARGET}/1")
        assert isinstance(address, IscsiAddress)
        self.device = IscsiDevice(address, SECOND_HOST)

    def write(self) -> str:
        """Write the last block as it is in the file; say "written" or "RESERVATION CONFLICT"."""
        return self._run(lambda: Write10(sbc.WRITE_10, BLOCK, BLOCKS - 1, 1, bytearray(BLOCK)))

    def reserve(self) -> str:
        return self._run(lambda: _plain("160000000000"))

    def release(self) -> str:
        return self._run(lambda: _plain("170000000000"))

    def _run(self, make: Callable[[], SCSICommand]) -> str:
        for _ in range(10):
            try:
                self.device.execute(make())
            except CommandFailed as failed:
                if failed.status == RESERVATION_CONFLICT:
                    return "RESERVATION CONFLICT"
                if sense_of(failed).key != UNIT_ATTENTION:
                    raise
            else:
                return "done"
        raise AssertionError("unit attentions without end")


def _plain(cdb: str) -> SCSICommand:
    command = ReadyCommand(spc.TEST_UNIT_READY)
    command.cdb = bytearray.fromhex(cdb)
    return command


class Arrays(NamedTuple):
    """Two arrays, and the files under them: LUN 0 of annex is local, LUN 1 is tgt's."""

    annexd: Annexd
    tgt: Tgt
    local: Path
    old: Path
    second_host: SecondHost

    def lu(self, number: int) -> str:
        return self.annexd.url(number)

    def wait_until_second_host_may_write(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while self.second_host.write() != "done":
            assert time.monotonic() < deadline, "the fence was not released"
            time.sleep(0.1)


@pytest.fixture
def arrays(tmp_path: Path) -> Iterator[Arrays]:
    local, old = tmp_path / "local.img", tmp_path / "old.img"
    local.write_bytes(bytes(BLOCKS * BLOCK))
    data = bytearray(random.Random(11).randbytes(BLOCKS * BLOCK))
    data[-BLOCK:] = bytes(BLOCK)
    old.write_bytes(data)
    with Tgt(tmp_path) as tgt:
        tgt.add_lun(tgt.add_target(OLD_TARGET), old)
        second_host = SecondHost(tgt)
        url = f"iscsi://127.0.0.1:{tgt.port}/{OLD_TARGET}/1"
        with Annexd(tmp_path, ("--local", local), ("--array", url)) as annexd:
            yield Arrays(annexd, tgt, local, old, second_host)
        second_host.device.close()
        tgt.kill()  # it would take seconds to end by itself, and nobody needs its files any more


@contextlib.contextmanager
def held_acquisition(arrays: Arrays, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `annexhost acquire --hold` as Alice until it holds; it is ended by its process id."""
    command = _command(("acquire", arrays.lu(1), *words, "--hold"), ALICE)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stderr.readline().decode()
        assert HOLDING in line, line
        yield process
    finally:
        process.kill()
        process.wait(LIMIT_S)
        process.stdout.close()
        process.stderr.close()


def test_reports_describe_both_arrays(arrays: Arrays) -> None:
    vdevs = annexhost("--json", "vdevs", arrays.lu(0)).document["virtual_devices"]
    assert [(row["lun"], row["blocks"], row["state"], row["flags"]) for row in vdevs] == [
        (0, BLOCKS, "ready", ["local_regions"]),
        (1, BLOCKS, "ready", ["external_regions"]),
    ]
    (region,) = annexhost("--json", "regions", arrays.lu(1)).document["regions"]
    assert (region["kind"], region["blocks"], region["state"]) == ("external", BLOCKS, "ready")
    assert "pairs" in annexhost("--json", "capabilities", arrays.lu(0)).document["capabilities"]["features"]


def test_external_data_is_acquired_and_transferred_in_one_run(arrays: Arrays, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    words = ("--lba", "100", "--blocks", "9000", "-o", str(copy))
    result = annexhost("--json", "acquire", arrays.lu(0), "--vdev", "1", *words)
    assert result.code == 0, result.err
    assert result.document["transferred"]["crc32c_checked"] is True
    assert copy.read_bytes() == arrays.old.read_bytes()[100 * BLOCK : 9100 * BLOCK]
    arrays.wait_until_second_host_may_write()


def test_the_data_can_be_relayed_through_a_pipe(arrays: Arrays) -> None:
    result = annexhost("acquire", arrays.lu(1), "--blocks", "500", "-o", "-")
    assert result.code == 0, result.err
    assert result.out == arrays.old.read_bytes()[: 500 * BLOCK]
    assert "the same as the array's" in result.err


def test_the_second_host_is_kept_out_until_everything_is_handed_over(arrays: Arrays, tmp_path: Path) -> None:
    assert arrays.second_host.write() == "done"
    with held_acquisition(arrays, "--id", "7", "--blocks", "5000") as holder:
        assert arrays.second_host.write() == "RESERVATION CONFLICT"
        assert annexhost("transfer", arrays.lu(1), "7", "--count", "10", "-o", str(tmp_path / "part")).code == 0
        assert arrays.second_host.write() == "RESERVATION CONFLICT"
        assert annexhost("transfer", arrays.lu(1), "7", "-o", str(tmp_path / "copy")).code == 0
        arrays.wait_until_second_host_may_write()
        assert holder.wait(LIMIT_S) == 0  # it sees that the acquisition has ended
    assert (tmp_path / "copy").read_bytes() == arrays.old.read_bytes()[: 5000 * BLOCK]


def test_only_the_requester_gets_the_data(arrays: Arrays) -> None:
    with held_acquisition(arrays, "--id", "7", "--blocks", "10"):
        result = annexhost("--json", "transfer", arrays.lu(1), "7", "-o", os.devnull, host=BOB)
        assert result.code == 1
        assert result.document["error"]["sense"] == "05/81/03"
        assert annexhost("end", arrays.lu(1), "7", host=BOB).code == 1
        assert annexhost("--json", "acquisitions", arrays.lu(1), host=BOB).document == {"acquisitions": []}


def test_end_drops_the_fence(arrays: Arrays) -> None:
    with held_acquisition(arrays, "--id", "7", "--blocks", "10"):
        assert arrays.second_host.write() == "RESERVATION CONFLICT"
        assert annexhost("end", arrays.lu(1), "7").code == 0
        assert arrays.second_host.write() == "done"  # at once: END is answered after the release


def test_the_fence_goes_with_the_hosts_last_session(arrays: Arrays) -> None:
    with held_acquisition(arrays, "--id", "7", "--blocks", "10") as holder:
        holder.kill()  # no log-out: the connection just ends
        arrays.wait_until_second_host_may_write()


def test_the_fence_goes_with_the_lifetime(arrays: Arrays) -> None:
    with held_acquisition(arrays, "--id", "7", "--blocks", "10", "--lifetime", "2"):
        assert arrays.second_host.write() == "RESERVATION CONFLICT"
        arrays.wait_until_second_host_may_write()


def test_the_fence_goes_with_the_daemon(arrays: Arrays) -> None:
    with held_acquisition(arrays, "--id", "7", "--blocks", "10"):
        arrays.annexd.stop()
        arrays.wait_until_second_host_may_write()


def test_a_reservation_of_the_second_host_refuses_acquisition_and_pair(arrays: Arrays) -> None:
    assert arrays.second_host.reserve() == "done"
    result = annexhost("--json", "acquire", arrays.lu(1), "--blocks", "10", "-o", os.devnull)
    assert (result.code, result.document["error"]["sense"]) == (1, "0B/81/06")
    result = annexhost("--json", "pair", "create", arrays.lu(0), "--secondary", "1")
    assert result.code == 1
    assert result.document["error"]["sense"] in {"0B/80/07", "05/80/05"}
    assert annexhost("--json", "pair", "display", arrays.lu(0)).document == {"pairs": []}
    assert arrays.second_host.release() == "done"
    assert annexhost("acquire", arrays.lu(1), "--blocks", "10", "-o", os.devnull).code == 0


def test_a_pair_is_created_copied_split_and_deleted(arrays: Arrays) -> None:
    data = random.Random(5).randbytes(BLOCKS * BLOCK - BLOCK) + bytes(BLOCK)
    arrays.annexd.stop()
    arrays.local.write_bytes(data)
    arrays.annexd.start()
    words = ("--secondary", "1", "--fence", "data", "--label", "mail", "--wait")
    result = annexhost("--json", "pair", "create", arrays.lu(0), *words)
    assert result.code == 0, result.err
    (pair,) = result.document["pairs"]
    assert (pair["state"], pair["in_sync_percent"], pair["fence_level"], pair["label"]) == ("PAIR", 100, "data", "mail")
    assert arrays.second_host.write() == "RESERVATION CONFLICT"
    assert arrays.old.read_bytes() == data
    for verb, state in (("split", "PSUS"), ("resync", "PAIR")):
        wait = ("--wait",) if verb == "resync" else ()
        assert annexhost("--json", "pair", verb, arrays.lu(0), *wait).document["pairs"][0]["state"] == state
    assert annexhost("pair", "verify", arrays.lu(0)).code == 0
    assert annexhost("--json", "pair", "takeover", arrays.lu(1)).document["pairs"][0]["state"] == "PAIR"
    assert annexhost("pair", "delete", arrays.lu(0)).code == 0
    assert arrays.second_host.write() == "done"


@pytest.mark.parametrize(
    ("words", "sense"),
    [
        (("pair", "create", "{0}", "--secondary", "60" + "0" * 29 + "1"), "05/26/00"),
        (("pair", "create", "{0}", "--secondary", "{0}"), "05/80/04"),
        (("pair", "split", "{0}"), "05/80/08"),
        (("pair", "display", "{0}", "--pair", "9"), "05/80/08"),
        (("acquire", "{1}", "--blocks", "0"), "05/26/00"),
        (("acquire", "{1}", "--lba", str(BLOCKS), "--blocks", "1"), "05/21/00"),
        (("acquire", "{1}", "--region", "99", "--blocks", "1"), "05/81/09"),
        (("acquire", "{1}", "--vdev", "60" + "0" * 29 + "1", "--blocks", "1"), "05/81/01"),
        (("transfer", "{1}", "9"), "05/81/04"),
        (("end", "{1}", "9"), "05/81/04"),
        (("regions", "{1}", "--vdev", "99"), "05/81/01"),
    ],
)
def test_refusals_arrive_with_their_sense_and_exit_code_1(
    refusing: Callable[[int], str], words: tuple[str, ...], sense: str
) -> None:
    result = annexhost("--json", *(word.format(refusing(0), refusing(1)) for word in words))
    error = (json.loads(result.out) if result.out else {"error": {"sense": result.err}})["error"]
    assert result.code == 1
    assert sense in error["sense"]


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], str]]:
    """One annexd for all that changes nothing; both LUNs are local."""
    folder = tmp_path_factory.mktemp("refusing")
    for name in ("a.img", "b.img"):
        (folder / name).write_bytes(bytes(BLOCKS * BLOCK))
    with Annexd(folder, ("--local", folder / "a.img"), ("--local", folder / "b.img")) as annexd:
        yield annexd.url


def test_an_array_that_has_gone_is_exit_code_3(arrays: Arrays) -> None:
    arrays.annexd.stop()
    result = annexhost("vdevs", arrays.lu(0))
    assert result.code == 3
    assert len(result.err.splitlines()) == 1


def test_a_lun_that_is_not_there_is_refused(arrays: Arrays) -> None:
    result = annexhost("vdevs", arrays.lu(9))
    assert result.code == 1
    assert "05/25/00" in result.err


def test_reports_work_while_the_external_array_is_away(arrays: Arrays) -> None:
    arrays.tgt.stop()
    deadline = time.monotonic() + LIMIT_S
    while True:
        rows = annexhost("--json", "vdevs", arrays.lu(1)).document["virtual_devices"]
        if rows[1]["state"] == "pending":
            break
        assert time.monotonic() < deadline, rows
    assert annexhost("acquire", arrays.lu(1), "--blocks", "1").code == 1
