"""annexd as a process: its command line, what it prints, how it starts without a part, and how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.annexd import ROOT, Annexd
from tests.support.host import GOOD, Host, HostLost, read_cdb, sense_of, write_cdb
from tests.support.load import Load
from tests.support.loop_device import LoopDevice
from tests.support.ports import free_port
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
TEST_UNIT_READY = bytes(6)
BECOMING_READY, MANUAL_INTERVENTION = (0x2, 0x04, 0x01), (0x2, 0x04, 0x03)
ARRAY_TARGET = "iqn.2026-11.org.example:array"
NOT_THERE_LIMIT_S = 30.0


def annexd(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run annexd where it has to end by itself."""
    command = [sys.executable, "-I", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def disk(path: Path, size_bytes: int = 16 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


# --- The command line ---


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["annex.json", "line 1", "not JSON"]),
        ('{"version": 2}', ["annex.json", "state_directory"]),
        ('{"version": 2, "state_directory": "/s", "targets": [{"name": "x"}]}', ["targets[0]"]),
        ('{"version": 9, "state_directory": "/s"}', ["version", "newer"]),
    ],
)
def test_a_bad_configuration_gets_one_line_and_exit_code_2(tmp_path: Path, content: str, words: list[str]) -> None:
    file = tmp_path / "annex.json"
    file.write_text(content)
    done = annexd("serve", "--config", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert all(word in one_line(done.stderr) for word in words), done.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_a_first_start_says_how_to_begin_and_init_begins(tmp_path: Path) -> None:
    file, state = tmp_path / "etc" / "annex.json", tmp_path / "state"
    done = annexd("serve", "--config", str(file))
    assert done.returncode == 2
    assert one_line(done.stderr) == f"annexd: {file}: is not there (begin with: annexd init --config {file})"
    done = annexd("init", "--config", str(file), "--state", str(state))
    assert (done.returncode, done.stderr) == (0, "")
    assert one_line(done.stdout) == f"{file} is written; now: annexd serve --config {file}"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert annexd("serve", "--config", str(file), "--check").returncode == 0
    assert not state.exists()


def test_init_leaves_a_file_that_is_there_alone(tmp_path: Path) -> None:
    file = tmp_path / "annex.json"
    file.write_text("mine")
    done = annexd("init", "--config", str(file))
    assert done.returncode == 2
    assert one_line(done.stderr) == f"annexd: {file}: is there already, and stays as it is"
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["try", "--portal", "127.0.0.1:99999"], ["portal"]),
        (["try", "--portal", "127.0.0.1:0", "--array", "iscsi://me%hush@h/x"], ["--array", "URL"]),
    ],
)
def test_a_bad_option_gets_one_line_that_shows_no_secret(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    done = annexd(*arguments, "--state", str(tmp_path / "state"))
    assert done.returncode == 2
    assert all(word in one_line(done.stderr) for word in words), done.stderr
    assert "hush" not in done.stderr


def test_a_port_in_use_gets_one_line_and_an_exit_code_of_its_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        portal = f"127.0.0.1:{taken.getsockname()[1]}"
        done = annexd("try", "--portal", portal, "--state", str(tmp_path / "state"), "--log-level", "error")
    assert done.returncode == 75  # EX_TEMPFAIL: systemd is to try again
    assert f"portal {portal}: can not be listened on" in one_line(done.stderr)


def test_a_damaged_state_directory_is_named_and_nothing_is_served(tmp_path: Path) -> None:
    with Annexd(tmp_path, ("--local", disk(tmp_path / "d.img"))):
        pass
    table = tmp_path / "state" / "mapping.json"
    table.write_text(table.read_text().replace("naa", "nab", 1))
    done = annexd(
        "try", "--portal", f"127.0.0.1:{free_port()}", "--state", str(tmp_path / "state"), "--log-level", "error"
    )
    assert done.returncode == 2
    assert "mapping.json" in one_line(done.stderr)


def test_a_second_daemon_on_one_state_directory_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with Annexd(tmp_path, ("--local", disk(tmp_path / "d.img"))) as first:
        done = annexd("try", "--portal", f"127.0.0.1:{free_port()}", "--state", str(tmp_path / "state"))
        assert done.returncode == 2
        assert str(first.pid) in one_line(done.stderr)


# --- What it prints, and keeps ---


def test_it_prints_a_line_per_lun_then_ready_and_nothing_else(tmp_path: Path) -> None:
    with Annexd(tmp_path, ("--local", disk(tmp_path / "d.img")), ("--local", disk(tmp_path / "e.img"))) as daemon:
        assert [line[:6] for line in daemon.lines] == ["LUN 0:", "LUN 1:", "ready"]
        with Host(daemon.port) as host:
            assert host.command(read_cdb(0, 1), data_in_bytes=512).status == GOOD
        assert daemon.stop() == 0
    assert len([line for line in daemon.lines if "ready" in line]) == 1


def test_ids_are_the_same_again_with_the_same_state_and_follow_the_source(tmp_path: Path) -> None:
    first, second = ("--local", disk(tmp_path / "d.img")), ("--local", disk(tmp_path / "e.img"))
    ids = []
    for sources in ((first, second), (second, first)):
        with Annexd(tmp_path, *sources) as daemon:
            ids.append(re.findall(r"naa\.([0-9a-f]{32})", " ".join(daemon.lines)))
    assert ids[0] == ids[1][::-1]
    assert len(set(ids[0])) == 2


def test_without_a_source_it_serves_a_sparse_gibibyte(tmp_path: Path) -> None:
    with Annexd(tmp_path) as daemon, Host(daemon.port) as host:
        last = (1 << 30) // 512 - 1
        assert host.command(write_cdb(last, 1), data_out=b"\x07" * 512).status == GOOD
        assert sense_of(host.command(read_cdb(last + 1, 1), data_in_bytes=512)) == (0x5, 0x21, 0x00)
    image = tmp_path / "state" / "disk.img"
    assert image.stat().st_size == 1 << 30
    assert image.stat().st_blocks * 512 < MIB


# --- Starting without a part ---


def test_a_missing_device_costs_only_its_own_lun(tmp_path: Path) -> None:
    sources = ("--local", tmp_path / "none"), ("--local", disk(tmp_path / "d.img"))
    with Annexd(tmp_path, *sources) as daemon, Host(daemon.port) as host:
        assert sense_of(host.command(TEST_UNIT_READY, lun=0))[:2] == (0x2, 0x04)
        assert host.command(read_cdb(0, 1), data_in_bytes=512, lun=1).status == GOOD


def test_an_array_that_is_away_at_start_comes_up_by_itself_later(tmp_path: Path) -> None:
    port = free_port()
    url = f"iscsi://127.0.0.1:{port}/{ARRAY_TARGET}/1"
    with Annexd(tmp_path, ("--array", url), ("--local", disk(tmp_path / "d.img"))) as daemon, Host(daemon.port) as host:
        assert sense_of(host.command(read_cdb(0, 1), data_in_bytes=512, lun=0))[:2] == (0x2, 0x04)
        assert host.command(read_cdb(0, 1), data_in_bytes=512, lun=1).status == GOOD
        array_disk = disk(tmp_path / "array.img")
        array_disk.write_bytes(b"\x2a" * 4096 + bytes(MIB))
        with Tgt(tmp_path, port) as array:
            array.add_lun(array.add_target(ARRAY_TARGET), array_disk)
            replies = []

            def there() -> bool:
                replies.append(host.command(read_cdb(0, 8), data_in_bytes=4096, lun=0))
                return replies[-1].status == GOOD

            host.wait(there, NOT_THERE_LIMIT_S)
            assert bytes(replies[-1].data_in) == b"\x2a" * 4096


def test_a_block_device_that_another_holds_is_refused_with_the_holder_s_name(tmp_path: Path) -> None:
    with LoopDevice(disk(tmp_path / "l.img")) as loop:
        holder = os.open(loop.path, os.O_RDWR | os.O_EXCL)
        try:
            with Annexd(tmp_path, ("--local", loop.path)) as daemon, Host(daemon.port) as host:
                assert sense_of(host.command(TEST_UNIT_READY)) == MANUAL_INTERVENTION
                assert re.search(rf"{loop.path}.*\b{os.getpid()}\b", daemon.log())
        finally:
            os.close(holder)


# --- Stopping ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_under_load(tmp_path: Path, number: signal.Signals) -> None:
    load = Load(64, seed=1)
    with Annexd(tmp_path, ("--local", disk(tmp_path / "d.img"))) as daemon:
        with Host(daemon.port) as host, suppress(HostLost):
            load.run(host, 200, then=lambda: os.kill(daemon.pid, number))
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log()
        daemon.start()
        with Host(daemon.port) as host:
            assert load.check(host) == []


def test_it_stops_before_it_is_up_when_the_array_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"iscsi://127.0.0.1:{silent.getsockname()[1]}/{ARRAY_TARGET}/1"
        arguments = ["try", "--portal", f"127.0.0.1:{free_port()}", "--array", url, "--state", str(tmp_path / "state")]
        process = subprocess.Popen([sys.executable, "-I", str(ROOT), *arguments], stdout=subprocess.PIPE)
        connection, _ = silent.accept()  # it has got as far as that
        process.terminate()
        output, _ = process.communicate(timeout=20)
        connection.close()
    assert (process.returncode, output) == (0, b"")


def test_the_mapping_table_survives_a_kill(tmp_path: Path) -> None:
    with Annexd(tmp_path, ("--local", disk(tmp_path / "d.img"))) as daemon:
        before = daemon.lines
        daemon.kill()
        daemon.start()
        assert daemon.lines == before
    json.loads((tmp_path / "state" / "mapping.json").read_text())
