"""What a running annexd says of itself in numbers, after a load that is known to the command."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.control import ControlClient
from tests.support.host import GOOD, SYNCHRONIZE_CACHE, Host, HostLost, read_cdb, sense_of, write_cdb
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.slow, pytest.mark.interop]

TARGET = "iqn.2026-11.org.example:metrics"
HOST = "iqn.2026-11.org.example:test-host"
READS, WRITES, BLOCKS = 300, 200, 8


class Page(NamedTuple):
    """One answer of the metrics port."""

    status: int
    text: str

    def value(self, name: str, **labels: str) -> float:
        """Give the value of one series, which must be there once."""
        (found,) = [
            sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        return found


def ask(port: int, path: str = "/metrics", method: str = "GET") -> Page:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return Page(response.status, response.read().decode())
    finally:
        connection.close()


def config(folder: Path, port: int, metrics_port: int) -> dict[str, Any]:
    state = folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    with (folder / "disk.img").open("wb") as file:
        file.truncate(8 << 20)
    return {
        "version": 2,
        "state_directory": str(state),
        "devices": [{"name": "disk", "path": str(folder / "disk.img")}],
        "virtual_devices": [{"name": "v0", "regions": [{"device": "disk"}]}],
        "targets": [{
            "name": TARGET, "portals": [f"127.0.0.1:{port}"], "luns": [{"lun": 0, "virtual_device": "v0"}],
            "acls": [{"initiator": HOST}],
        }],
        "metrics": {"listen": f"127.0.0.1:{metrics_port}"},
    }  # fmt: skip


@pytest.fixture
def metrics_port() -> int:
    return free_port()


@pytest.fixture
def served(tmp_path: Path, metrics_port: int) -> Iterator[Served]:
    with Served(tmp_path, config(tmp_path, free_port(), metrics_port)) as daemon:
        yield daemon


def test_counts_are_those_of_a_known_load(served: Served, metrics_port: int) -> None:
    with Host(served.port, target=TARGET) as host:
        for _ in range(2):
            host.command(SYNCHRONIZE_CACHE)
        before = ask(metrics_port)
        answers: list[int] = []
        for number in range(READS):
            cdb = read_cdb(number * BLOCKS, BLOCKS)
            host.submit(cdb, lambda task: answers.append(task.status), data_in_bytes=BLOCKS * 512)
        for number in range(WRITES):
            data = bytes(BLOCKS * 512)
            host.submit(write_cdb(number * BLOCKS, BLOCKS), lambda task: answers.append(task.status), data_out=data)
        host.wait(lambda: len(answers) == READS + WRITES)
        assert set(answers) == {GOOD}
        past_the_end = host.command(read_cdb(1 << 40, 1), data_in_bytes=512)
        assert sense_of(past_the_end) == (0x05, 0x21, 0x00)
        after = ask(metrics_port)
        document = ControlClient(served.folder / "control.sock").get("/v1/statistics")

    def more(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    for noun, labels in (("lu", {"lu": "v0"}), ("host", {"host": HOST})):
        assert more(f"annex_{noun}_operations_total", **labels, operation="read") == READS
        assert more(f"annex_{noun}_operations_total", **labels, operation="write") == WRITES
        assert more(f"annex_{noun}_bytes_total", **labels, operation="read") == READS * BLOCKS * 512
        assert more(f"annex_{noun}_bytes_total", **labels, operation="write") == WRITES * BLOCKS * 512
    assert after.value("annex_lu_errors_total", lu="v0", sense="5/21/00") == 1
    assert after.value("annex_host_errors_total", host=HOST, sense="5/21/00") == 1
    # Of the reads, which come first: all of the writes may fall between two samples.
    host_reads = after.value("annex_host_operations_total", host=HOST, operation="read")
    assert 0 < after.value("annex_host_latency_seconds_count", host=HOST, operation="read") <= host_reads + 1
    assert after.value("annex_device_ready", device="disk") == 1
    assert after.value("annex_host_sessions", host=HOST) == after.value("annex_sessions") == 1
    assert 0 < after.value("annex_lu_latency_seconds_count", lu="v0", operation="read") <= READS + 1
    assert after.value("annex_lu_busy_seconds_total", lu="v0") > 0
    assert document["lus"]["v0"]["reads"] == after.value("annex_lu_operations_total", lu="v0", operation="read")


def test_what_a_host_did_stays_when_its_session_has_ended(served: Served, metrics_port: int) -> None:
    for _ in range(2):
        with Host(served.port, target=TARGET) as host:
            assert host.command(read_cdb(0, 1), data_in_bytes=512).status == GOOD
    with Host(served.port, target=TARGET):
        page = ask(metrics_port)
    assert page.value("annex_host_operations_total", host=HOST, operation="read") == 2
    assert page.value("annex_logins_total") == 3


def test_a_login_that_is_refused_is_counted_by_its_reason(served: Served, metrics_port: int) -> None:
    with suppress(HostLost), Host(served.port, target=TARGET, name="iqn.2026-11.org.example:stranger"):
        pytest.fail("it was let in")
    assert ask(metrics_port).value("annex_logins_refused_total", status="authorization_failure") == 1


@pytest.mark.parametrize("path", ["/metrics", "/nothing"])
def test_strangers_learn_no_versions(served: Served, metrics_port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", metrics_port, timeout=20)
    try:
        connection.request("GET", path)
        assert connection.getresponse().getheader("Server") == "annex"
    finally:
        connection.close()


@pytest.mark.parametrize(("path", "method", "status"), [("/", "GET", 404), ("/metrics", "POST", 405)])
def test_nothing_else_is_answered_there(served: Served, metrics_port: int, path: str, method: str, status: int) -> None:
    assert ask(metrics_port, path, method).status == status


def test_a_crowd_of_silent_connections_does_not_keep_prometheus_out_for_long(served: Served, metrics_port: int) -> None:
    crowd = [socket.create_connection(("127.0.0.1", metrics_port), timeout=20) for _ in range(40)]
    try:
        for connection in crowd[:16]:
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""  # closed by annexd, as it has asked nothing
        assert ask(metrics_port).status == 200
    finally:
        for connection in crowd:
            connection.close()


def test_the_port_goes_with_its_section_of_the_configuration(served: Served, metrics_port: int) -> None:
    assert ask(metrics_port).status == 200
    other = free_port()
    wanted = config(served.folder, served.port, other)
    assert "reloaded" in served.reload(wanted)
    assert ask(other).status == 200
    with pytest.raises(ConnectionRefusedError):
        ask(metrics_port)
    del wanted["metrics"]
    served.reload(wanted)
    with pytest.raises(ConnectionRefusedError):
        ask(other)


@pytest.mark.parametrize(
    "request_line",
    [b"NONSENSE\r\n\r\n", b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: y\r\n\r\n"],
)
def test_nor_does_a_stranger_who_sends_what_is_no_request(
    served: Served, metrics_port: int, request_line: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", metrics_port), timeout=20) as stranger:
        stranger.sendall(request_line)
        answer = b"".join(iter(lambda: stranger.recv(65536), b"")).lower()
    assert answer.startswith(b"http/1.")
    assert b"aiohttp" not in answer
    assert b"python" not in answer.partition(b"\r\n\r\n")[0]
