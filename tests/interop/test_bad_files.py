"""annexd with configurations that nobody should give it, in its file and by the control API.

It keeps running with the old one, and says so.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.annexd import START_LIMIT_S
from tests.support.control import ControlClient, part
from tests.support.host import GOOD, Host, read_cdb
from tests.support.ports import free_port
from tests.support.served import POLL_S, Served

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
TARGET = "iqn.2026-11.org.example:annex"
SECRET = "canary-d0a1-do-not-print"
MOST_BYTES = 8 << 20

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


def with_value(value: Any, *place: str | int) -> Callable[[Document], bytes]:
    """Put a value at a place of a configuration that has one of everything."""

    def make(good: Document) -> bytes:
        document = json.loads(json.dumps(good))
        document["arrays"] = [{"name": "old", "portal": "192.0.2.1", "target": "iqn.2026-11.org.example:old"}]
        document["targets"][0]["acls"] = [{"initiator": "iqn.2026-11.org.example:host"}]
        holder: Any = document
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = value
        return json.dumps(document).encode()

    return make


NAMES = {
    "with /": "a/b",
    "with a new line": "a\nb",
    "of 300 bytes": "n" * 300,
    "that is not ASCII": "é",
    "that moves the cursor": "\x1b[2J",
    "of nothing": "",
}
NAMED: dict[str, tuple[str | int, ...]] = {
    "a device": ("devices", 0, "name"),
    "an array": ("arrays", 0, "name"),
    "a virtual device": ("virtual_devices", 0, "name"),
    "a target": ("targets", 0, "name"),
    "a host": ("targets", 0, "acls", 0, "initiator"),
}
TYPES: dict[str, tuple[Any, tuple[str | int, ...]]] = {
    "a text for a list": ("va", ("virtual_devices",)),
    "nothing for a list": (None, ("devices",)),
    "a list for a text": ([], ("devices", 0, "name")),
    "a number for a text": (7, ("devices", 0, "path")),
    "a text for a number": ("0", ("targets", 0, "luns", 0, "lun")),
    "a fraction for a number": (0.5, ("targets", 0, "luns", 0, "lun")),
    "a number of 40 digits": (10**40, ("targets", 0, "luns", 0, "lun")),
    "a number for true": (1, ("targets", 0, "luns", 0, "read_only")),
    "a list for an object": ([], ("targets", 0, "anyone")),
    "a text for an object": ("x", ("virtual_devices", 0, "regions", 0)),
    "a text for a secret's object": ("x", ("discovery", "chap")),
}

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
    **{f"{what} {how}": with_value(name, *place) for what, place in NAMED.items() for how, name in NAMES.items()},
    **{what: with_value(value, *place) for what, (value, place) in TYPES.items()},
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


def test_a_bad_configuration_is_refused_by_the_api_and_the_old_one_stays_in_force(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with Served(tmp_path, config) as annexd:
        api = ControlClient(tmp_path / "control.sock")
        before, in_force = annexd.file.read_bytes(), api.get("/v1/config")
        for kind, make in BAD.items():
            data = make(config)
            answer = api.ask("PUT", "/v1/config", raw=data)
            assert answer.status == (413 if len(data) > MOST_BYTES else 400), kind
            said = " ".join(answer.error.values())
            assert said.isprintable(), kind
            assert len(said) < 2500, kind
            assert SECRET not in said, kind
            assert api.get("/v1/config") == in_force, kind
        assert annexd.file.read_bytes() == before
        assert not (tmp_path / "backup").exists()
        check_still_serving(annexd)
    assert "Traceback" not in annexd.log()
    assert SECRET not in annexd.log()


ROUTES: dict[str, dict[str, Any]] = {
    "/v1/devices": {"name": "n", "path": "/dev/null"},
    "/v1/arrays": {"name": "n", "portal": "192.0.2.1", "target": "iqn.2026-11.org.example:n"},
    "/v1/vdevs": {"name": "n", "regions": [{"device": "a"}]},
    "/v1/targets": {"name": "iqn.2026-11.org.example:n", "portals": ["192.0.2.1"], "luns": []},
    f"/v1/targets/{TARGET}/acls": {"initiator": "iqn.2026-11.org.example:n"},
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An annexd that several tests ask for what can not be."""
    folder = tmp_path_factory.mktemp("running")
    with Served(folder, configuration(folder)) as annexd:
        yield annexd
    assert "Traceback" not in annexd.log()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("route", ROUTES)
def test_a_bad_name_is_refused_by_each_route_and_found_by_none(running: Served, route: str, name: str) -> None:
    api = ControlClient(running.folder / "control.sock")
    body = ROUTES[route]
    key = next(iter(body))
    before = api.get("/v1/config")
    answers = [api.ask("POST", route, body | {key: name})]
    if name:  # else it is the list
        one = f"{route}/{part(name)}"
        answers += [api.ask("GET", one), api.ask("DELETE", one), api.ask("PATCH", one, {})]
    assert answers[0].status == 400
    assert {answer.status for answer in answers[1:]} <= {404, 405}
    for answer in answers:
        assert " ".join(answer.error.values()).isprintable()
    assert api.get("/v1/config") == before


@pytest.mark.parametrize("value", [None, True, 7, 0.5, [], {}, "x" * 100_000], ids=lambda value: f"{value!r:.10}")
@pytest.mark.parametrize("route", ROUTES)
def test_a_value_of_another_type_is_refused_by_each_route(running: Served, route: str, value: Any) -> None:
    api = ControlClient(running.folder / "control.sock")
    before = api.get("/v1/config")
    for body in (value, *(ROUTES[route] | {key: value} for key in ROUTES[route])):
        if body == []:  # `luns` and the like may have nothing in them
            continue
        if isinstance(body, dict) and [] in body.values():
            body["colour"] = "red"
        answer = api.ask("POST", route, raw=json.dumps(body).encode())
        assert answer.status == 400
        assert len(" ".join(answer.error.values())) < 2500
    assert api.get("/v1/config") == before


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
