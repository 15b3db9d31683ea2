"""annexd with files that nobody should give it: it keeps running with the old configuration, and says so."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.annexd import START_LIMIT_S
from tests.support.host import GOOD, Host, read_cdb
from tests.support.ports import free_port
from tests.support.served import POLL_S, Served

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
TARGET = "iqn.2026-11.org.example:annex"
SECRET = "canary-d0a1-do-not-print"

Document = dict[str, Any]


def configuration(folder: Path) -> Document:
    with (folder / "a.img").open("wb") as file:
        file.truncate(MIB)
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": "a", "path": str(folder / "a.img")}],
        "virtual_devices": [{"name": "va", "regions": [{"device": "a"}]}],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"127.0.0.1:{free_port()}"],
                "luns": [{"lun": 0, "virtual_device": "va"}],
                "anyone": {"addresses": ["127.0.0.1"]},
            }
        ],
        "discovery": {"chap": {"name": "finder", "secret": SECRET}},
        "control": {"socket": str(folder / "control.sock")},
    }


def renamed(name: str) -> Callable[[Document], bytes]:
    return lambda good: json.dumps(good | {"devices": [{**good["devices"][0], "name": name}]}).encode()


BAD: dict[str, Callable[[Document], bytes]] = {
    "nothing": lambda _: b"",
    "half a file": lambda good: json.dumps(good).encode()[:-100],
    "zeros": lambda good: bytes(len(json.dumps(good))),
    "a newer version": lambda good: json.dumps(good | {"version": 3, "shape": "new"}).encode(),
    "an unknown key": lambda good: json.dumps(good | {"colour": "red"}).encode(),
    "a key twice": lambda good: json.dumps(good).replace('"version": 2', '"version": 2, "version": 2').encode(),
    "ten megabytes": lambda good: json.dumps(good | {"state_directory": "/" + "x" * 10_000_000}).encode(),
    "deep": lambda _: b"[" * 1_000_000,
    "a list": lambda _: b"[]",
    "a number for a list": lambda good: json.dumps(good | {"targets": 7}).encode(),
    "another state directory": lambda good: json.dumps(good | {"state_directory": "/elsewhere"}).encode(),
    "what is in use gone": lambda good: json.dumps(good | {"devices": []}).encode(),
    "a name with /": renamed("a/b"),
    "a name with a new line": renamed("a\nb"),
    "a name of 300 bytes": renamed("n" * 300),
    "a name that is not ASCII": renamed("é"),
    "a name that moves the cursor": renamed("\x1b[2J"),
}


def check_still_serving(annexd: Served) -> None:
    with Host(annexd.port, target=TARGET) as host:
        assert host.command(read_cdb(0, 1), data_in_bytes=512).status == GOOD


def test_a_bad_file_is_named_in_one_line_and_the_old_configuration_stays_in_force(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with Served(tmp_path, config) as annexd:
        for kind, make in BAD.items():
            annexd.file.write_bytes(make(config))
            said = annexd.reload()
            assert "not reloaded, the old configuration stays in force: " in said, kind
            assert said.isprintable(), kind
            assert len(said) < 2500, kind
            check_still_serving(annexd)
        annexd.file.write_text(json.dumps(config))
        assert "reloaded: 0 changes" in annexd.reload()
    assert "Traceback" not in annexd.log()
    assert SECRET not in annexd.log()


def missing(path: Path) -> None:
    path.unlink()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def readable_for_all(path: Path) -> None:
    path.chmod(0o644)


@pytest.mark.parametrize("change", [missing, fifo, folder, readable_for_all])
def test_a_file_that_is_no_such_file_is_never_waited_for(tmp_path: Path, change: Callable[[Path], None]) -> None:
    with Served(tmp_path, configuration(tmp_path)) as annexd:
        change(annexd.file)
        assert "not reloaded, the old configuration stays in force: " in annexd.reload()
        check_still_serving(annexd)
    assert "Traceback" not in annexd.log()


class WithoutPortals(Served):
    """annexd with a configuration that has no portal: it is up once it says so."""

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while "serving 0 logical units" not in self.log():
            assert not self.ended(), self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(POLL_S)


def test_annexd_serves_nothing_with_a_first_file_and_takes_the_next(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    annexd = WithoutPortals(tmp_path, config)
    annexd.write({key: config[key] for key in ("version", "state_directory", "control")})
    with annexd:
        assert "reloaded: " in annexd.reload(config)
        check_still_serving(annexd)
    assert "Traceback" not in annexd.log()
