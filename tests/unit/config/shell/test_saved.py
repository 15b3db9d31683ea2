"""saveconfig, restoreconfig, clearconfig, backups and import, against an API that keeps one configuration."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest

from config import changes, checks, model, store
from config.errors import ConfigError, RevisionError
from config.shell.saved import SavedConfigurations

SECRET = "canary-9e02-do-not-print"
TARGET = "iqn.2026-11.org.example:annex"
HOST = "iqn.2026-11.org.example:host"


def configuration(*names: str) -> model.Config:
    return model.Config(
        version=model.VERSION,
        state_directory="/var/lib/annex",
        devices=[model.Device(name=name, path=f"/dev/{name}") for name in names],
        virtual_devices=[model.VirtualDevice(name=f"v{n}", regions=[model.Region(device=n)]) for n in names],
        targets=[
            model.Target(
                name=TARGET,
                portals=["127.0.0.1:3260"],
                luns=[model.Lun(lun=lun, virtual_device=f"v{name}") for lun, name in enumerate(names)],
                acls=[model.Acl(initiator=HOST, chap=model.Chap(name="host", secret=SECRET))],
            )
        ],
        control=model.Control(admin_groups=["wheel"]),
    )


class FakeApi:
    """GET and PUT /v1/config of a daemon that saves to `file`."""

    def __init__(self, config: model.Config, file: Path | None) -> None:
        self.config = config
        self.file = file
        self.revision = 1
        self.between: Callable[[], None] = lambda: None  # what another admin does while this one is asked
        if file is not None:
            store.save(file, config)

    def get(self, path: str) -> Any:
        shown = msgspec.to_builtins(self.config)
        if "secrets=true" not in path:
            shown = json.loads(json.dumps(shown).replace(SECRET, ""))
        return {"revision": self.revision, "config": shown, "file": str(self.file) if self.file else None}

    def put(self, path: str, body: object) -> Any:
        query = dict(parse_qsl(urlsplit(path).query))
        if int(query["expected_revision"]) != self.revision:
            raise RevisionError("revision", f"is {self.revision} by now")
        new = msgspec.convert(body, model.Config)
        checks.check(new)
        made = changes.difference(self.config, new)
        if query.get("dry_run") == "true":
            self.between()
        else:
            self.config, self.revision = new, self.revision + 1
            if self.file is not None:
                store.save(self.file, new)
        return {"revision": self.revision, "changes": msgspec.to_builtins(made)}


class Shell(SavedConfigurations):
    """The commands, with what they said and were answered."""

    def __init__(self, api: FakeApi, *, agrees: bool = True) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.api = api

        def agree(question: str) -> bool:
            self.asked.append(question)
            return agrees

        super().__init__(api, self.said.append, agree)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(FakeApi(configuration("a", "b"), tmp_path / "annex.json"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    store.export(path, configuration("a", "c"))
    return path


# --- saveconfig ---


def test_saveconfig_writes_everything_with_secrets_for_its_owner_only(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    shell.save(path)
    assert store.load(path) == shell.api.config
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert shell.said == [f"saved to {path}"]


def test_saveconfig_without_a_file_says_that_there_is_nothing_to_do(shell: Shell, tmp_path: Path) -> None:
    shell.save()
    assert shell.said == [f"annexd saves each change when it is made: {tmp_path / 'annex.json'} is up to date"]


def test_a_daemon_without_a_file_says_so() -> None:
    shell = Shell(FakeApi(configuration("a"), None))
    for command in (shell.save, shell.backups):
        with pytest.raises(ConfigError, match="annexd try"):
            command()


# --- restoreconfig ---


def test_restoring_the_whole_shows_the_difference_asks_and_applies_it(shell: Shell, saved: Path) -> None:
    made = shell.restore(saved)
    assert shell.api.config == configuration("a", "c")
    assert [str(change).split(":")[0] for change in made[:2]] == ["create /devices/c", "create /vdevs/vc"]
    assert shell.said[0].startswith("  create /devices/c")
    assert shell.said[-1] == f"{len(made)} changes made"
    assert shell.asked == [f"Restore this from {saved}?"]


def test_without_agreement_nothing_is_changed(tmp_path: Path, saved: Path) -> None:
    shell = Shell(FakeApi(configuration("a"), tmp_path / "annex.json"), agrees=False)
    assert shell.restore(saved) == []
    assert shell.clear() == []
    assert shell.api.revision == 1
    assert shell.said[-1] == "nothing was changed"


def test_a_confirmed_command_does_not_ask(shell: Shell, saved: Path) -> None:
    shell.restore(saved, confirmed=True)
    shell.clear(confirmed=True)
    assert shell.asked == []


def test_restoring_what_is_in_force_changes_nothing(shell: Shell, tmp_path: Path) -> None:
    shell.save(tmp_path / "out.json")
    assert shell.restore(tmp_path / "out.json") == []
    assert shell.said[-1] == "nothing to change"
    assert shell.asked == []


def test_what_another_admin_changed_meanwhile_is_never_lost(shell: Shell, saved: Path) -> None:
    def change() -> None:
        shell.api.config, shell.api.revision = configuration("a", "b", "z"), 2

    shell.api.between = change
    with pytest.raises(RevisionError):
        shell.restore(saved)
    assert shell.api.config == configuration("a", "b", "z")


def test_the_state_directory_stays_that_of_the_daemon(shell: Shell, saved: Path) -> None:
    other = configuration("a", "c")
    other.state_directory = "/elsewhere"
    store.export(saved, other)
    shell.restore(saved)
    assert shell.api.config.state_directory == "/var/lib/annex"
    assert shell.said[0] == "the state directory stays /var/lib/annex; in the file it is /elsewhere"


@pytest.mark.parametrize("part", ["devices", "/devices", "/devices/", "/devices/c"])
def test_a_part_is_restored_and_the_rest_stays(shell: Shell, saved: Path, part: str) -> None:
    shell.api.config = configuration("a")
    shell.restore(saved, [part])
    assert [device.name for device in shell.api.config.devices] == ["a", "c"]
    assert shell.api.config.virtual_devices == configuration("a").virtual_devices


def test_several_parts_are_one_change(shell: Shell, saved: Path) -> None:
    shell.restore(saved, ["devices", "vdevs", f"/iscsi/{TARGET}"])
    assert shell.api.config == configuration("a", "c")
    assert shell.api.revision == 2


def test_an_entry_replaces_that_of_its_name_where_it_stands(shell: Shell, saved: Path) -> None:
    other = configuration("b")
    other.devices[0].path = "/dev/other"
    store.export(saved, other)
    shell.restore(saved, ["/devices/b"])
    assert [device.path for device in shell.api.config.devices] == ["/dev/a", "/dev/other"]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("/disks", "is not one"),
        ("", "is not one"),
        ("/devices/zz", "is not in the saved"),
        ("/control/x", "is not in the saved"),
    ],
)
def test_a_part_that_is_not_there_is_named(shell: Shell, saved: Path, part: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        shell.restore(saved, [part])
    assert shell.api.revision == 1


def test_a_part_that_does_not_fit_what_is_in_force_is_refused(shell: Shell, saved: Path) -> None:
    with pytest.raises(ConfigError, match="no device is named 'c'"):
        shell.restore(saved, ["/vdevs"])


def test_a_bad_file_is_refused_before_anything_is_asked(shell: Shell, tmp_path: Path) -> None:
    for content in ("{", '{"version": 9, "state_directory": "/s"}', '{"version": 2, "state_directory": "/s", "x": 1}'):
        path = tmp_path / "bad.json"
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"bad\.json"):
            shell.restore(path)
    assert shell.said == []


# --- clearconfig ---


def test_clearing_keeps_the_state_directory_and_how_admins_reach_annexd(shell: Shell) -> None:
    shell.clear()
    assert shell.api.config == model.Config(
        version=model.VERSION, state_directory="/var/lib/annex", control=model.Control(admin_groups=["wheel"])
    )


# --- Backups ---


def test_each_change_leaves_a_backup_that_can_be_restored(shell: Shell, saved: Path) -> None:
    shell.restore(saved)
    shell.clear()
    assert [backup.number for backup in shell.backups()] == [2, 1]
    shell.restore_backup(1)
    assert shell.api.config == configuration("a", "b")
    shell.restore_backup(2, confirmed=True)
    assert [device.name for device in shell.api.config.devices] == ["a", "c"]


def test_a_backup_that_is_not_there_is_named_with_those_that_are(shell: Shell, saved: Path) -> None:
    shell.restore(saved)
    with pytest.raises(ConfigError, match=r"backup 7: is not there \(there are: 1\)"):
        shell.restore_backup(7)


def test_backups_of_another_machine_are_not_looked_for_on_this_one(shell: Shell) -> None:
    away = SavedConfigurations(shell.api, shell.said.append, lambda _: True, here=False)
    with pytest.raises(ConfigError, match="lie on the machine of annexd"):
        away.restore_backup(1)


# --- import targetcli ---


LIO = {
    "storage_objects": [
        {"name": "d", "plugin": "block", "dev": "/dev/sdz", "write_back": True},
        {"name": "m", "plugin": "ramdisk"},
    ],
    "targets": [],
    "fabric_modules": [],
}


@pytest.fixture
def of_targetcli(tmp_path: Path) -> Path:
    path = tmp_path / "saveconfig.json"
    path.write_text(json.dumps(LIO))
    return path


def test_an_import_reports_asks_and_adds_to_what_is_in_force(shell: Shell, of_targetcli: Path) -> None:
    report, made = shell.import_targetcli(of_targetcli)
    assert [device.name for device in shell.api.config.devices] == ["a", "b", "d"]
    assert len(made) == 2
    assert "/backstores/ramdisk/m: is memory" in str(report)
    assert shell.said[0] == str(report)
    chap = shell.api.config.targets[0].acls[0].chap
    assert chap is not None
    assert chap.secret == SECRET


def test_an_import_can_make_the_file_for_the_first_start(shell: Shell, of_targetcli: Path, tmp_path: Path) -> None:
    output = tmp_path / "new.json"
    shell.import_targetcli(of_targetcli, output=output)
    assert [device.path for device in store.load(output).devices] == ["/dev/sdz"]
    assert shell.api.revision == 1
    with pytest.raises(ConfigError, match="is there already"):
        shell.import_targetcli(of_targetcli, output=output)


def test_nothing_that_is_said_holds_a_secret(shell: Shell, saved: Path, of_targetcli: Path, tmp_path: Path) -> None:
    other = configuration("a", "c")
    assert other.targets[0].acls[0].chap is not None
    other.targets[0].acls[0].chap.secret = f"{SECRET}-new"
    store.export(saved, other)
    shell.restore(saved)
    shell.save(tmp_path / "out.json")
    shell.import_targetcli(of_targetcli)
    shell.clear()
    assert "canary" not in "\n".join(shell.said + shell.asked)
