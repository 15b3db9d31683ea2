"""The configuration of a running annexd: saved or not changed, by one admin or by two; and where its secrets are."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from config import backups, store
from config.errors import ConfigError
from config.shell.client import Address, Client
from config.shell.errors import Refused
from config.shell.saved import SavedConfigurations
from tests.support.annexd import ROOT
from tests.support.host import GOOD, Host, read_cdb, sense_of, write_cdb
from tests.support.kernel_target import KernelTarget
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
TARGET = "iqn.2026-11.org.example:annex"
HOST = "iqn.2026-11.org.example:host"
VPD_83 = bytes((0x12, 1, 0x83, 0, 255, 0))
DATA_PROTECT = (0x7, 0x27, 0x00)
LIMIT_S = 30.0


def disk(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    return path


def configuration(folder: Path) -> dict[str, Any]:
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": "a", "path": str(disk(folder / "a.img"))}],
        "virtual_devices": [{"name": "va", "regions": [{"device": "a"}]}],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"127.0.0.1:{free_port()}"],
                "luns": [{"lun": 0, "virtual_device": "va"}],
                "anyone": {"addresses": ["127.0.0.1"]},
            }
        ],
        "control": {"socket": str(folder / "control.sock")},
    }


@contextmanager
def served(folder: Path, config: dict[str, Any] | None = None) -> Iterator[tuple[Served, Client]]:
    with Served(folder, config or configuration(folder)) as annexd:
        yield annexd, Client(Address(socket=str(folder / "control.sock")))
        assert "Traceback" not in annexd.log()


def saved_configurations(client: Client, said: list[str]) -> SavedConfigurations:
    return SavedConfigurations(client, said.append, lambda _: True)


def naa(annexd: Served) -> bytes:
    with Host(annexd.port, target=TARGET, name=HOST) as host:
        answer = host.command(VPD_83, data_in_bytes=255)
        assert answer.status == GOOD
        return bytes(answer.data_in)


def names(client: Client) -> list[str]:
    return [device["name"] for device in client.get("/v1/config")["config"]["devices"]]


# --- Disk full ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a file system of 64 KiB."""
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "annex-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_v36_a_full_disk_leaves_the_old_configuration_in_force_and_on_disk(tmp_path: Path, small_disk: Path) -> None:
    annexd = Served(tmp_path, configuration(tmp_path))
    annexd.file.unlink()
    annexd.file = small_disk / "annex.json"
    annexd.write(configuration(tmp_path) | {"targets": [target(annexd.port)]})
    filler = small_disk / "filler"
    with annexd, Host(annexd.port, target=TARGET, name=HOST) as host:
        client = Client(Address(socket=str(tmp_path / "control.sock")))
        before, config = annexd.file.read_bytes(), client.get("/v1/config")
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(Refused) as refused:
            client.post("/v1/devices", {"name": "b", "path": str(disk(tmp_path / "b.img"))})
        assert refused.value.status == 507
        assert str(refused.value) == (
            f"{annexd.file}: can not be written: No space left on device (make room on its file system)"
        )
        assert client.get("/v1/config") == config
        assert annexd.file.read_bytes() == before
        assert sorted(path.name for path in small_disk.iterdir() if path.is_file()) == ["annex.json", "filler"]
        assert host.command(read_cdb(0, 1), data_in_bytes=512).status == GOOD
        assert f"the old configuration stays in force: {annexd.file}: can not be written" in annexd.log()
        filler.unlink()
        client.post("/v1/devices", {"name": "b", "path": str(tmp_path / "b.img")})
        assert names(client) == ["a", "b"]
        assert [device.name for device in store.load(annexd.file).devices] == ["a", "b"]
        assert [backup.path.read_bytes() for backup in backups.listed(annexd.file)] == [before]
    assert "Traceback" not in annexd.log()


def target(port: int) -> dict[str, Any]:
    return {
        "name": TARGET,
        "portals": [f"127.0.0.1:{port}"],
        "luns": [{"lun": 0, "virtual_device": "va"}],
        "anyone": {"addresses": ["127.0.0.1"]},
    }


# --- Two shells ---


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Make calls at once; give each one's answer, or what it raised."""
    outcomes: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(number: int) -> None:
        start.wait(LIMIT_S)
        try:
            outcomes[number] = calls[number]()
        except ConfigError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    return outcomes


def test_changes_of_many_shells_at_once_are_all_there(tmp_path: Path) -> None:
    with served(tmp_path) as (annexd, client):
        wanted = [{"name": f"d{number}", "path": str(disk(tmp_path / f"{number}.img"))} for number in range(8)]
        shells = [Client(client.address) for _ in wanted]
        outcomes = at_once(*(lambda s=s, w=w: s.post("/v1/devices", w) for s, w in zip(shells, wanted, strict=True)))
        assert not [outcome for outcome in outcomes if isinstance(outcome, ConfigError)]
        assert sorted(names(client)) == ["a", *(f"d{number}" for number in range(8))]
        assert client.get("/v1/config")["revision"] == 9
        assert len(store.load(annexd.file).devices) == 9


def test_two_changes_that_fit_in_either_order_are_taken_in_either(tmp_path: Path) -> None:
    with served(tmp_path) as (_, client):
        client.post("/v1/devices", {"name": "b", "path": str(disk(tmp_path / "b.img"))})
        for _ in range(5):
            made, gone = at_once(
                lambda: Client(client.address).post("/v1/vdevs", {"name": "vb", "regions": [{"device": "b"}]}),
                lambda: Client(client.address).delete("/v1/vdevs/vb"),
            )
            assert not isinstance(made, ConfigError)
            there = "vb" in [row["name"] for row in client.get("/v1/config")["config"]["virtual_devices"]]
            assert there == (isinstance(gone, Refused) and gone.status == 404)
            if there:
                client.delete("/v1/vdevs/vb")


def test_of_two_whole_configurations_made_from_one_revision_one_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as (_, client):
        answer = client.get("/v1/config?secrets=true")
        documents = []
        for name in ("b", "c"):
            document = json.loads(json.dumps(answer["config"]))
            document["devices"].append({"name": name, "path": str(disk(tmp_path / f"{name}.img"))})
            documents.append(document)
        path = f"/v1/config?expected_revision={answer['revision']}"
        outcomes = at_once(*(lambda d=d: Client(client.address).put(path, d) for d in documents))
        refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
        assert [outcome.status for outcome in refused] == [412]
        assert len(names(client)) == 2


# --- saveconfig, clearconfig, restoreconfig ---


def test_a_cleared_daemon_is_restored_from_a_file_or_a_backup_and_hosts_find_their_disk(tmp_path: Path) -> None:
    said: list[str] = []
    with served(tmp_path) as (annexd, client):
        commands = saved_configurations(client, said)
        before = naa(annexd)
        commands.save(tmp_path / "mine.json")
        commands.clear()
        assert client.get("/v1/config")["config"]["targets"] == []
        commands.restore(tmp_path / "mine.json")
        assert naa(annexd) == before
        # The first is what the admin wrote, without ids; the second has them.
        assert [backup.number for backup in commands.backups()] == [3, 2, 1]
        commands.clear()
        commands.restore_backup(2)
        assert naa(annexd) == before
        assert store.load(annexd.file) == store.load(tmp_path / "mine.json")


def test_another_machine_takes_over_with_a_saved_configuration_and_is_the_same_disk(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with served(tmp_path, config) as (annexd, client):
        before = naa(annexd)
        saved_configurations(client, []).save(tmp_path / "mine.json")
        (port,) = config["targets"][0]["portals"]
    other = tmp_path / "other"
    other.mkdir()
    saved = json.loads((tmp_path / "mine.json").read_text())
    taken_over = saved | {"state_directory": str(other / "state"), "control": {"socket": str(other / "control.sock")}}
    with served(other, taken_over) as (annexd, client):
        assert naa(annexd) == before
    # Onto a daemon that has nothing, as one change.
    third = tmp_path / "third"
    third.mkdir()
    empty = {"devices": [], "virtual_devices": [], "targets": [saved["targets"][0] | {"luns": []}]}
    onto = taken_over | empty | {"state_directory": str(third / "state")}
    with served(third, onto | {"control": {"socket": str(third / "control.sock")}}) as (annexd, client):
        saved_configurations(client, []).restore(tmp_path / "mine.json", ["/devices", "/vdevs", "/iscsi"])
        assert naa(annexd) == before
        assert client.get("/v1/config")["config"]["targets"][0]["portals"] == [port]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("602616e" + "A" * 25, "is no id that annexd makes"),
        ("6001405" + "0" * 25, "is no id that annexd makes"),
        ("", "is no id that annexd makes"),
        ("602616e" + "0" * 25, "the configuration now says 602616e0000"),
        (None, "stands there twice"),
    ],
)
def test_a_wrong_id_is_refused_by_the_api_and_in_the_file(tmp_path: Path, wrong: str | None, words: str) -> None:
    with served(tmp_path) as (annexd, client):
        document = client.get("/v1/config?secrets=true")["config"]
        (own,) = document["virtual_devices"]
        if wrong is None:
            document["devices"].append({"name": "b", "path": str(disk(tmp_path / "b.img"))})
            document["virtual_devices"].append(own | {"name": "vb", "regions": [{"device": "b"}]})
        else:
            own["naa"] = wrong
        before = naa(annexd)
        with pytest.raises(Refused, match=words):
            client.put("/v1/config", document)
        annexd.file.write_text(json.dumps(document))
        assert words in annexd.reload()
        assert naa(annexd) == before


def test_a_restore_that_can_not_be_applied_is_rolled_back(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    taken = free_port()
    with served(tmp_path, config) as (annexd, client):
        bad = json.loads(json.dumps(config))
        bad["devices"].append({"name": "b", "path": str(disk(tmp_path / "b.img"))})
        bad["targets"][0]["portals"].append(f"192.0.2.99:{taken}")  # no address of this machine
        path = tmp_path / "bad.json"
        path.write_text(json.dumps(bad))
        before = client.get("/v1/config")
        with pytest.raises(Refused, match=r"192\.0\.2\.99"):
            saved_configurations(client, []).restore(path)
        assert client.get("/v1/config") == before
        assert naa(annexd)


# --- import targetcli ---


def test_what_targetcli_saved_is_served_by_annex_with_the_data_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = disk(tmp_path / "lio.img")
    with image.open("r+b") as file:
        file.write(b"\x5a" * 512)
    (tmp_path / "configfs").mkdir()
    kernel = KernelTarget(tmp_path / "configfs")
    port, name = free_port(), "iqn.2003-01.org.linux-iscsi.host.x8664:sn.0123456789ab"
    group = kernel.group(kernel.target(name))
    kernel.portal(group, "127.0.0.1", port)
    lun = kernel.lun(group, 0, kernel.storage_object("fileio", "img", str(image)))
    kernel.mapped_lun(kernel.acl(group, HOST), 3, lun, write_protect=True)
    kernel.storage_object("rd_mcp", "memory", "")
    saved = tmp_path / "saveconfig.json"
    kernel.save(saved, monkeypatch)
    with served(tmp_path) as (_, client):
        said = annexcli(tmp_path / "control.sock", f"import targetcli {saved}")
        assert "/backstores/ramdisk/memory: is memory" in said
        assert "create /devices/img" in said
        with Host(port, target=name, name=HOST) as host:
            answer = host.command(read_cdb(0, 1), data_in_bytes=512, lun=3)
            assert (answer.status, bytes(answer.data_in)) == (GOOD, b"\x5a" * 512)
            assert sense_of(host.command(write_cdb(0, 1), data_out=bytes(512), lun=3)) == DATA_PROTECT
        before = client.get("/v1/config")
        assert "nothing to change" in annexcli(tmp_path / "control.sock", f"import targetcli {saved}")
        assert client.get("/v1/config") == before


# --- Secrets ---

CANARIES = {
    "acl": "canary-acl-1f6b0d9c", "mutual": "canary-mutual-77e1", "discovery": "canary-discovery-0a4e",
    "array": "canary-array-5c2d", "new": "canary-new-93bb", "short": "canary-s",
}  # fmt: skip


def with_secrets(folder: Path) -> dict[str, Any]:
    config = configuration(folder)
    config["arrays"] = [
        {
            "name": "old",
            "portal": f"127.0.0.1:{free_port()}",
            "target": "iqn.2026-11.org.example:old",
            "chap": {"name": "annex", "secret": CANARIES["array"]},
        }
    ]
    config["targets"][0]["acls"] = [
        {
            "initiator": HOST,
            "chap": {"name": "host", "secret": CANARIES["acl"]},
            "mutual_chap": {"name": "annex", "secret": CANARIES["mutual"]},
        }
    ]
    config["discovery"] = {"chap": {"name": "finder", "secret": CANARIES["discovery"]}}
    return config


class Talkative(Served):
    """annexd that logs all that it can."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--log-level", "debug"]


def test_secrets_are_in_the_files_of_mode_0600_and_nowhere_else(tmp_path: Path) -> None:
    config = with_secrets(tmp_path)
    outputs: list[str] = []
    with Talkative(tmp_path, config) as annexd:
        client = Client(Address(socket=str(tmp_path / "control.sock")))
        commands = saved_configurations(client, outputs)

        def tried(call: Callable[..., Any], *arguments: Any) -> None:
            try:
                outputs.append(repr(call(*arguments)))
            except ConfigError as error:
                outputs.append(f"{error} {error!r} {vars(error)}")

        names = {"name": "old", "target": TARGET, "initiator": HOST}
        for path, methods in client.get("/v1/openapi.json")["paths"].items():
            if "get" in methods:
                tried(client.get, re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], "0"), path))
        acl = f"/v1/targets/{TARGET}/acls/{HOST}"
        tried(client.patch, acl, {"chap": {"name": "host", "secret": CANARIES["new"]}})
        tried(client.patch, acl, {"chap": {"name": "host", "secret": CANARIES["short"]}})
        tried(client.patch, acl, {"chap": {"name": "host", "secret": [CANARIES["new"]]}})
        tried(client.patch, acl, {"chap": CANARIES["new"]})
        tried(client.put, "/v1/discovery", {"chap": {"name": "f", "secret": CANARIES["new"], "x": CANARIES["new"]}})
        tried(client.put, "/v1/config", config | {"x": CANARIES["new"]})
        tried(client.post, "/v1/arrays", config["arrays"][0])
        tried(commands.save, tmp_path / "mine.json")
        tried(commands.clear)
        tried(commands.restore, tmp_path / "mine.json")
        tried(commands.restore_backup, 1)
        for text in ('{"version": 2, "' + CANARIES["new"], json.dumps(config | {"version": 9})):
            annexd.file.write_text(text)
            outputs.append(annexd.reload())
        annexd.file.write_text(json.dumps(config))
        annexd.file.chmod(0o600)
        for secret in (CANARIES["acl"], "canary-wrong-0000"):
            url = f"iscsi://host%{secret}@127.0.0.1:{annexd.port}/{TARGET}/0"
            subprocess.run(["iscsi-inq", "-i", HOST, url], capture_output=True, timeout=LIMIT_S, check=False)
        assert "login" in annexd.log().lower()
        commands_of_shell = ("ls", f"/iscsi/{TARGET}/tpg1/acls/{HOST} info", "/arrays/old info", "backups")
        outputs += [annexcli(tmp_path / "control.sock", command) for command in commands_of_shell]
        process = Path(f"/proc/{annexd.pid}")
        outputs += [(process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
    assert len(outputs) > 20
    assert [line for line in outputs if "canary" in line] == []
    holders = {path for path in tmp_path.rglob("*") if path.is_file() and b"canary" in path.read_bytes()}
    assert annexd.file in holders
    allowed = {annexd.file, tmp_path / "mine.json", *(backup.path for backup in backups.listed(annexd.file))}
    assert holders <= allowed, holders - allowed
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700


def annexcli(socket: Path, command: str) -> str:
    arguments = [sys.executable, str(ROOT / "bin" / "annexcli"), "--socket", str(socket), *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ)
    return done.stdout + done.stderr
