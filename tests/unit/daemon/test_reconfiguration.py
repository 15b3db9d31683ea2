"""A running daemon takes another configuration wholly or not at all."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.acquisitions.book import Acquisitions
from backends.devices.state import DeviceState
from backends.external.array import ArrayState
from backends.mapping import MappingTable
from backends.pairs.book import PairBook
from backends.state_directory import StateDirectory, StateError
from config import backups, model, store
from config.errors import ConfigError, InUseError, NotSavedError, NotServingError, RevisionError
from daemon.assembly import Assembly
from daemon.daemon import Daemon, Phase
from daemon.event_loop import LoopScheduler
from daemon.portals import Portals, addresses
from daemon.reconfiguration import Reconfiguration
from daemon.sessions import Sessions
from scsi.iscsi.directory import Addresses
from scsi.iscsi.registry import SessionRegistry
from tests.support.ports import free_port

TARGET = "iqn.2026-11.org.example:annex"
MIB = 1 << 20
Edit = Callable[[model.Config], model.Config]


class Recorder:
    """An endpoint that remembers where it was told to listen, and can refuse."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        self.refuses: str | None = None

    async def listen(self, config: model.Config) -> None:
        listen = config.metrics.listen if config.metrics else None
        if self.refuses and listen == self.refuses:
            raise ConfigError("metrics.listen", "is taken")
        self.heard.append(listen)

    async def close(self) -> None:
        raise AssertionError("not a part of this")


class Running:
    """A daemon that serves `config`, without a process around it."""

    def __init__(self, folder: Path, config: model.Config) -> None:
        loop = asyncio.get_running_loop()
        scheduler = LoopScheduler(loop)
        self.file = folder / "annex.json"
        store.save(self.file, config)
        self.state = StateDirectory(folder / "state")
        self.assembly = Assembly(config, self.state, scheduler)
        registry = SessionRegistry()
        sessions = Sessions(self.assembly.units.by_name, scheduler, self.assembly.acquisitions.host_gone)
        self.portals = Portals(config, registry, sessions)
        self.daemon = Daemon(self.assembly, registry, sessions, self.portals, loop.time())
        self.endpoints = [Recorder(), Recorder()]
        self.reconfiguration = Reconfiguration(config, config, self.daemon, self.endpoints, self.file)
        self.daemon.reconfiguration = self.reconfiguration
        self.change = self.reconfiguration.change

    def picture(self) -> object:
        """Give all that a change could have touched."""
        assembly = self.assembly
        return (
            self.reconfiguration.revision,
            self.daemon.config,
            store.load(self.file),
            dict(assembly.devices),
            dict(assembly.arrays),
            dict(assembly.virtual_devices),
            [row.name for row in assembly.table.rows()],
            list(assembly.units.units()),
            assembly.units.config,
            [(address, portal) for address, portal in self.portals],
            [endpoint.heard[-1:] for endpoint in self.endpoints],
        )


def configuration(folder: Path) -> model.Config:
    for name in "ab":
        with (folder / f"{name}.img").open("wb") as file:
            file.truncate(MIB)
    return model.Config(
        version=2,
        state_directory=str(folder / "state"),
        devices=[model.Device(name="a", path=str(folder / "a.img"))],
        virtual_devices=[model.VirtualDevice(name="va", regions=[model.Region(device="a")])],
        targets=[
            model.Target(
                name=TARGET, portals=[f"127.0.0.1:{free_port()}"], luns=[model.Lun(lun=0, virtual_device="va")]
            )
        ],
    )


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Running]:
    config = configuration(folder)
    running = Running(folder, config)
    await running.assembly.start()
    for address in addresses(config):
        await running.portals.open(address)
    running.daemon.phase = Phase.SERVING
    try:
        yield running
    finally:
        running.daemon.phase = Phase.STOPPING
        await running.reconfiguration.settle()
        await running.portals.close_all()
        await running.assembly.close()
        running.state.close()


@pytest.fixture
def test(tmp_path: Path) -> Callable[[Callable[[Running], Coroutine[Any, Any, None]]], None]:
    """Run a coroutine with a daemon."""

    def run(body: Callable[[Running], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with started(tmp_path) as running:
                await body(running)

        asyncio.run(main())

    return run


Test = Callable[[Callable[[Running], Coroutine[Any, Any, None]]], None]


def grown(config: model.Config) -> model.Config:
    """Add one of everything that can fail to come."""
    folder = Path(config.state_directory).parent
    config.devices.append(model.Device(name="b", path=str(folder / "b.img")))
    config.arrays.append(model.Array(name="old", portal=f"127.0.0.1:{free_port()}", target="iqn.2019-04.org.x:old"))
    config.virtual_devices.append(model.VirtualDevice(name="vb", regions=[model.Region(device="b")]))
    config.virtual_devices.append(model.VirtualDevice(name="far", regions=[model.Region(array="old", lun=3)]))
    config.targets[0].luns.append(model.Lun(lun=1, virtual_device="vb"))
    config.targets[0].luns.append(model.Lun(lun=2, virtual_device="far"))
    config.targets[0].portals.append(f"127.0.0.1:{free_port()}")
    config.metrics = model.Metrics(listen="127.0.0.1:9100")
    return config


def shrunk(config: model.Config) -> model.Config:
    """Take away everything but the target."""
    config.targets[0].luns = []
    config.virtual_devices, config.arrays, config.devices, config.metrics = [], [], [], None
    return config


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


# --- What a change does -----------------------------------------------------------------------------------------------


def test_a_change_is_in_force_saved_and_counted(test: Test, tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        before = running.reconfiguration.config
        applied = await running.change(grown)
        assembly = running.assembly
        assert applied.revision == running.reconfiguration.revision == 2
        assert [change.path for change in applied.changes][:3] == ["/devices/b", "/arrays/old", "/vdevs/vb"]
        assert len(before.devices) == 1  # an edit works on a copy
        assert store.load(running.file) == running.daemon.config == assembly.units.config
        assert assembly.virtual_devices["vb"].blocks == MIB // 512
        assert assembly.arrays["old"].state is ArrayState.CONNECTING  # it is away, and that is no reason to refuse it
        assert set(assembly.units.by_name()) == {"va", "vb", "far"}
        assert [address for address, _ in running.portals] == addresses(running.daemon.config)
        assert [endpoint.heard for endpoint in running.endpoints] == [["127.0.0.1:9100"]] * 2
        assert is_locked(tmp_path / "b.img")

    test(body)


def test_what_goes_is_closed_and_forgotten(test: Test, tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        await running.change(grown)
        array = running.assembly.arrays["old"]
        await running.change(shrunk)
        assembly = running.assembly
        assert [*assembly.devices, *assembly.arrays, *assembly.virtual_devices] == []
        assert list(assembly.units.units()) == []
        assert assembly.table.rows() == []
        assert array.state is ArrayState.REMOVED
        assert not is_locked(tmp_path / "b.img")
        assert [endpoint.heard[-1] for endpoint in running.endpoints] == [None, None]
        again = await running.change(grown)
        assert again.revision == 4
        row = assembly.table.by_name("vb")
        assert row is not None
        assert row.number == 4  # va, vb and far had 1, 2 and 3

    test(body)


def ids(config: model.Config) -> dict[str, str | None]:
    return {virtual_device.name: virtual_device.naa for virtual_device in config.virtual_devices}


def own_ids(running: Running) -> dict[str, str]:
    return {name: device.naa.hex() for name, device in running.assembly.virtual_devices.items()}


def test_what_is_saved_has_the_ids_and_brings_the_same_disks_back(test: Test) -> None:
    async def body(running: Running) -> None:
        assert ids(running.daemon.config) == own_ids(running)
        assert ids(store.load(running.file)) == {"va": None}
        await running.change(grown)
        before, known = store.load(running.file), own_ids(running)
        assert ids(before) == known
        await running.change(shrunk)
        await running.change(lambda _: before)
        assert own_ids(running) == known
        assert store.load(running.file) == before

    test(body)


def test_the_backup_of_the_first_configuration_has_its_ids_when_they_go(test: Test) -> None:
    async def body(running: Running) -> None:
        known = own_ids(running)
        await running.change(shrunk)
        kept = backups.listed(running.file)
        assert [ids(store.load(backup.path)) for backup in kept] == [known, {"va": None}]

    test(body)


def test_a_file_without_ids_is_no_change(test: Test) -> None:
    async def body(running: Running) -> None:
        assert (await running.reconfiguration.reload()).changes == []
        assert (await running.change(_without_ids)).changes == []
        assert ids(running.daemon.config) == own_ids(running)

    test(body)


def _without_ids(config: model.Config) -> model.Config:
    for virtual_device in config.virtual_devices:
        virtual_device.naa = None
    return config


@pytest.mark.parametrize("name", ["va", "vb"])
def test_an_id_is_for_good_and_for_one(test: Test, name: str) -> None:
    other = "602616e" + "7" * 25

    def edit(config: model.Config) -> model.Config:
        config = grown(config)
        config.virtual_devices[0].name = "vc"  # with the id of va, which has gone
        return config

    def named(config: model.Config) -> model.Config:
        config.virtual_devices[0].naa = other
        return config

    async def body(running: Running) -> None:
        known, picture = own_ids(running), running.picture()
        if name == "va":
            words = f"'va' has the id {known['va']}; the configuration now says {other}"
            wanted = named
        else:
            words = f"'vc' is given the id {known['va']}, which is that of virtual device 'va'"
            wanted = edit
            running.daemon.config.targets[0].luns.clear()
        with pytest.raises(ConfigError, match=words):
            await running.change(wanted)
        assert running.picture() == picture

    test(body)


def test_a_leg_of_a_pair_does_not_come_back_under_its_id_alone(test: Test, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(running: Running) -> None:
        monkeypatch.setattr(PairBook, "pair_of", lambda _, naa: SimpleNamespace(number=3) if naa[-1] == 0x77 else None)

        def edit(config: model.Config) -> model.Config:
            grown(config).virtual_devices[1].naa = "602616e" + "7" * 25
            return config

        with pytest.raises(InUseError, match="belongs to pair 3"):
            await running.change(edit)

    test(body)


def test_a_device_that_nothing_lies_on_may_become_another(test: Test, tmp_path: Path) -> None:
    def with_path(name: str) -> Edit:
        def edit(config: model.Config) -> model.Config:
            config.devices = [*config.devices[:1], model.Device(name="spare", path=str(tmp_path / name))]
            return config

        return edit

    async def body(running: Running) -> None:
        (tmp_path / "c.img").write_bytes(bytes(MIB))
        await running.change(with_path("b.img"))
        await running.change(with_path("c.img"))
        assert running.assembly.devices["spare"].path.endswith("c.img")
        assert not is_locked(tmp_path / "b.img")
        assert is_locked(tmp_path / "c.img")

    test(body)


def test_a_device_that_is_not_there_is_no_reason_to_refuse_it(test: Test) -> None:
    def edit(config: model.Config) -> model.Config:
        config.devices.append(model.Device(name="gone", path="/nowhere/at/all"))
        config.virtual_devices.append(model.VirtualDevice(name="vgone", regions=[model.Region(device="gone")]))
        return config

    async def body(running: Running) -> None:
        await running.change(edit)
        assert running.assembly.virtual_devices["vgone"].fault() is not None

    test(body)


def test_a_device_may_have_another_name_with_what_lies_on_it(test: Test) -> None:
    def edit(config: model.Config) -> model.Config:
        config.devices[0].name = "b"
        config.virtual_devices = [model.VirtualDevice(name="vb", regions=[model.Region(device="b")])]
        config.targets[0].luns[0].virtual_device = "vb"
        return config

    async def body(running: Running) -> None:
        await running.change(edit)
        assert running.assembly.virtual_devices["vb"].fault() is None

    test(body)


def test_a_device_that_came_back_is_opened_when_the_file_is_read_again(test: Test, tmp_path: Path) -> None:
    def edit(config: model.Config) -> model.Config:
        config.devices.append(model.Device(name="late", path=str(tmp_path / "late.img")))
        config.virtual_devices.append(model.VirtualDevice(name="vlate", regions=[model.Region(device="late")]))
        return config

    async def body(running: Running) -> None:
        await running.change(edit)
        late = running.assembly.virtual_devices["vlate"]
        assert late.fault() is not None
        (tmp_path / "late.img").write_bytes(bytes(MIB))
        assert await running.reconfiguration.reload() == (2, [])
        assert late.fault() is None

    test(body)


def test_a_dry_run_tells_the_changes_and_touches_nothing(test: Test) -> None:
    async def body(running: Running) -> None:
        before = running.picture()
        applied = await running.change(grown, dry_run=True)
        assert applied.revision == 1
        assert len(applied.changes) == 8
        assert running.picture() == before

    test(body)


def test_what_changes_nothing_is_no_revision(test: Test) -> None:
    async def body(running: Running) -> None:
        assert await running.change(lambda config: config) == (1, [])

    test(body)


def test_the_file_is_read_again_and_not_written(test: Test) -> None:
    async def body(running: Running) -> None:
        store.save(running.file, grown(store.load(running.file)))
        text = running.file.read_text() + "\n"
        running.file.write_text(text)
        applied = await running.reconfiguration.reload()
        assert applied.revision == 2
        assert set(running.assembly.devices) == {"a", "b"}
        assert running.file.read_text() == text

    test(body)


def test_a_secret_that_changed_in_its_file_is_used_when_the_configuration_is_read_again(
    test: Test, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = "iqn.2026-11.org.example:host"

    def with_credential(config: model.Config) -> model.Config:
        config.targets[0].acls = [model.Acl(initiator=host, chap=model.Chap(name="host", credential="host-secret"))]
        return config

    async def body(running: Running) -> None:
        def secret() -> bytes:
            ((address, portal),) = running.portals
            chap = portal.directory.admit(host, TARGET, Addresses("127.0.0.1", 1, *address)).chap
            assert chap is not None
            return chap.accepted.secret

        with pytest.raises(ConfigError, match=r"targets\[0\].acls\[0\].chap: credential 'host-secret' is not there"):
            await running.change(with_credential)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        (tmp_path / "host-secret").touch(mode=0o600)
        (tmp_path / "host-secret").write_text("the first secret\n")
        await running.change(with_credential)
        assert secret() == b"the first secret"
        (tmp_path / "host-secret").write_text("the second secret")
        assert await running.reconfiguration.reload() == (3, [])
        assert secret() == b"the second secret"
        assert "the " not in running.file.read_text()
        (tmp_path / "host-secret").write_text("short")
        with pytest.raises(ConfigError, match="is not 12 to 256 bytes long"):
            await running.reconfiguration.reload()
        assert secret() == b"the second secret"

    test(body)


def test_changes_follow_one_another_and_none_is_lost(test: Test, tmp_path: Path) -> None:
    def adding(name: str) -> Edit:
        def edit(config: model.Config) -> model.Config:
            config.devices.append(model.Device(name=name, path=str(tmp_path / name)))
            return config

        return edit

    async def body(running: Running) -> None:
        names = [f"x{number}" for number in range(8)]
        applied = await asyncio.gather(*(running.change(adding(name)) for name in names))
        assert [one.revision for one in applied] == list(range(2, 10))
        assert list(running.assembly.devices) == ["a", *names]

    test(body)


def test_an_asker_that_goes_away_does_not_stop_a_change_half_way(test: Test) -> None:
    async def body(running: Running) -> None:
        asking = asyncio.ensure_future(running.change(grown))
        await asyncio.sleep(0)
        asking.cancel()
        await running.change(lambda config: config)  # waits for the first
        assert running.reconfiguration.revision == 2
        assert set(running.assembly.devices) == {"a", "b"}

    test(body)


# --- What is refused before anything is touched -----------------------------------------------------------------------


def put(path: str, value: object) -> Edit:
    """Give an edit that sets what is at a path such as "targets.0.luns"."""

    def edit(config: model.Config) -> model.Config:
        entry: Any = config
        *way, last = path.split(".")
        for step in way:
            entry = entry[int(step)] if step.isdigit() else getattr(entry, step)
        setattr(entry, last, value)
        return config

    return edit


def test_an_external_lu_that_was_never_seen_is_given_an_id_or_keeps_none_when_that_fails(
    test: Test, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = put("virtual_devices.2.regions.0.id", "aa")

    async def body(running: Running) -> None:
        await running.change(grown)
        (unit,) = running.assembly.virtual_devices["far"].external_units()
        with monkeypatch.context() as patched:
            _file_full(running, patched)
            with pytest.raises(NotSavedError):
                await running.change(edit)
        assert unit.id == b""
        await running.change(edit)
        assert unit.id == b"\xaa"

    test(body)


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        (put("devices", []), InUseError, "device 'a': is part of virtual device va"),
        (put("devices.0.path", "/elsewhere"), InUseError, "device 'a': is part of virtual device va"),
        (put("arrays", []), InUseError, "array 'old': is part of virtual device far"),
        (put("virtual_devices", []), InUseError, f"virtual device 'va': is shown as /iscsi/{TARGET}/tpg1/luns/0"),
        (put("virtual_devices.0.regions.0.first_lba", 8), ConfigError, "give what is made otherwise another name"),
        (put("state_directory", "/elsewhere"), ConfigError, "state_directory: can not be changed"),
        (put("targets.0.luns.0.lun", 256), ConfigError, "targets[0].luns[0].lun: 256 is not within"),
        (put("targets.0.luns.0.lun", "zero"), ConfigError, "targets[0].luns[0].lun: Expected `int`"),
        (put("devices.0.path", None), ConfigError, "devices[0].path: Expected `str`"),
    ],
)
def test_it_is_refused_before_anything_is_touched(test: Test, edit: Edit, kind: type[ConfigError], words: str) -> None:
    async def body(running: Running) -> None:
        await running.change(grown)
        before = running.picture()
        with pytest.raises(kind) as refusal:
            await running.change(edit)
        assert type(refusal.value) is kind
        assert words in str(refusal.value)
        assert running.picture() == before
        assert running.assembly.units.unit(running.assembly.virtual_devices["va"].naa) is not None

    test(body)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_virtual_device_at_work_is_not_deleted(test: Test, monkeypatch: pytest.MonkeyPatch, dry_run: bool) -> None:
    async def refusal(running: Running) -> str:
        before = running.picture()
        with pytest.raises(InUseError) as refused:
            await running.change(shrunk, dry_run=dry_run)
        assert running.picture() == before
        return str(refused.value)

    async def body(running: Running) -> None:
        device = running.assembly.virtual_devices["va"]
        with monkeypatch.context() as patched:
            patched.setattr(PairBook, "pair_of", lambda *_: SimpleNamespace(number=7))
            assert "virtual device 'va': is in pair 7" in await refusal(running)
        with monkeypatch.context() as patched:
            patched.setattr(PairBook, "forming", True)
            assert "virtual device 'va': a pair is being formed" in await refusal(running)
        subject = SimpleNamespace(device=device, vdev_naa=bytes(16), identifier=5, host="iqn.host")
        with monkeypatch.context() as patched:
            patched.setattr(Acquisitions, "all", lambda _: [SimpleNamespace(subject=subject)])
            assert "virtual device 'va': is being read by acquisition 5 of iqn.host" in await refusal(running)

    test(body)


def test_a_leg_of_a_pair_that_was_started_without_it_does_not_come_back_alone(
    test: Test, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(running: Running) -> None:
        running.assembly.table.add("vb", [], lambda _: None)
        row = running.assembly.table.by_name("vb")
        assert row is not None
        row.regions.clear()
        monkeypatch.setattr(
            PairBook, "pair_of", lambda _, naa: SimpleNamespace(number=3) if naa == row.naa_bytes else None
        )
        monkeypatch.setattr(type(running.assembly.table), "check", lambda *_: None)
        with pytest.raises(InUseError, match="belongs to pair 3"):
            await running.change(grown)
        running.assembly.table.forget("vb", lambda _: None)

    test(body)


def test_it_is_refused_when_another_revision_is_in_force(test: Test) -> None:
    async def body(running: Running) -> None:
        await running.change(grown, expected_revision=1)
        with pytest.raises(RevisionError, match="is 2 by now, not 1"):
            await running.change(shrunk, expected_revision=1)
        assert set(running.assembly.devices) == {"a", "b"}

    test(body)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.STOPPING])
def test_a_daemon_that_starts_or_stops_takes_no_changes(test: Test, phase: Phase) -> None:
    async def body(running: Running) -> None:
        running.daemon.phase = phase
        with pytest.raises(NotServingError, match=phase.value):
            await running.change(grown)
        assert set(running.assembly.devices) == {"a"}

    test(body)


def test_an_edit_that_refuses_changes_nothing(test: Test) -> None:
    def edit(config: model.Config) -> model.Config:
        config.devices.clear()
        raise ConfigError("/devices/z", "is not there")

    async def body(running: Running) -> None:
        before = running.picture()
        with pytest.raises(ConfigError, match="/devices/z: is not there"):
            await running.change(edit)
        assert running.picture() == before

    test(body)


# --- What fails on the way, and is undone -----------------------------------------------------------------------------


def _record_full(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: StateDirectory, name: str, content: object) -> None:
        raise StateError(Path(name), "no space left")

    monkeypatch.setattr(StateDirectory, "write", full)


def _portal_taken(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = running.portals.open

    async def refused(address: tuple[str, int]) -> None:
        await opened(address)
        await running.portals.close(address)
        raise ConfigError("portal", "is taken")

    monkeypatch.setattr(running.portals, "open", refused)


def _endpoint_taken(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.endpoints[1], "refuses", "127.0.0.1:9100")


def _file_full(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, config: model.Config) -> None:
        raise ConfigError(str(path), "can not be written: no space left")

    monkeypatch.setattr(store, "save", full)


@pytest.mark.parametrize(
    ("breaks", "kind", "words"),
    [
        (_record_full, ConfigError, "could not be recorded"),
        (_portal_taken, ConfigError, "is taken"),
        (_endpoint_taken, ConfigError, "is taken"),
        (_file_full, NotSavedError, "can not be written: no space left"),
    ],
)
def test_a_step_that_fails_undoes_all_before_it(
    test: Test,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    breaks: Callable[[Running, pytest.MonkeyPatch], None],
    kind: type[ConfigError],
    words: str,
) -> None:
    async def body(running: Running) -> None:
        for endpoint in running.endpoints:
            await endpoint.listen(running.daemon.config)
        before = running.picture()
        with monkeypatch.context() as patched:
            breaks(running, patched)
            with pytest.raises(kind, match=words):
                await running.change(grown)
        assert running.picture() == before
        assert not is_locked(tmp_path / "b.img")
        await running.change(grown)  # nothing is in its way
        assert set(running.assembly.units.by_name()) == {"va", "vb", "far"}

    with caplog.at_level(logging.CRITICAL):
        test(body)


def test_a_failed_change_keeps_the_ids_of_what_it_would_have_deleted_or_brought_back(
    test: Test, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(running: Running) -> None:
        assembly = running.assembly
        naa = assembly.virtual_devices["va"].naa
        with monkeypatch.context() as patched:
            _file_full(running, patched)
            with pytest.raises(NotSavedError):
                await running.change(shrunk)
        assert assembly.units.unit(naa) is not None
        # As after a start with a file that had lost it.
        await running.change(shrunk)
        row = assembly.table.add("vb", running_rows(running), lambda _: None)
        with monkeypatch.context() as patched:
            _file_full(running, patched)
            with pytest.raises(NotSavedError):
                await running.change(grown)
        assert assembly.table.by_name("vb") is row

    def running_rows(running: Running) -> Any:
        from daemon.region_rows import region_rows

        wanted = grown(store.load(running.file))
        return region_rows(wanted, wanted.virtual_devices[0])

    test(body)


def test_a_portal_that_made_way_listens_again(test: Test) -> None:
    async def body(running: Running) -> None:
        (address,) = addresses(running.daemon.config)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            portals = [f"0.0.0.0:{address[1]}", f"127.0.0.1:{taken.getsockname()[1]}"]
            with pytest.raises(ConfigError, match=f"{portals[1]}: can not be listened on"):
                await running.change(put("targets.0.portals", portals))
        _, writer = await asyncio.open_connection(*address)
        writer.close()
        await writer.wait_closed()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", address[1]), timeout=1)

    test(body)


def test_an_undo_that_fails_does_not_keep_the_others_from_being_done(
    test: Test, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(running: Running) -> None:
        first, second = running.endpoints
        second.refuses = "127.0.0.1:9100"

        async def no_way_back(config: model.Config) -> None:
            if config.metrics is None:
                raise ConfigError("metrics", "does not go back")

        first.listen = no_way_back  # type: ignore[method-assign]  # so it fails
        with pytest.raises(ConfigError, match="is taken"):
            await running.change(grown)
        assert set(running.assembly.devices) == {"a"}
        assert "while a change was undone: metrics: does not go back" in caplog.text

    test(body)


# --- One change after another, at random ------------------------------------------------------------------------------


class Universe:
    """Random configurations out of a few devices, arrays, virtual devices, LUNs and portals that fit together."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self._folder = folder
        self._portals = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        self._array = f"127.0.0.1:{free_port()}"
        for name in "abc":
            (folder / f"{name}.img").write_bytes(bytes(MIB))

    def wish(self, config: model.Config) -> model.Config:
        """Give another configuration; whatever LUNs it has, what they stand on is there."""
        names = self._some("abcx")
        config.devices = [
            model.Device(name=name, path=str(self._folder / f"{name}.img")) for name in sorted(names - {"x"})
        ]
        config.arrays = (
            [model.Array(name="x", portal=self._array, target="iqn.2019-04.org.x:x")] if "x" in names else []
        )
        made = sorted(self._some(names))
        config.virtual_devices = [model.VirtualDevice(name=f"v{name}", regions=[_region(name)]) for name in made]
        config.targets[0].luns = [
            model.Lun(lun=lun, virtual_device=f"v{name}", read_only=self.random.random() < 0.3)
            for lun, name in enumerate(sorted(self._some(made)))
        ]
        config.targets[0].portals = sorted(self._some(self._portals)) or self._portals[:1]
        return config

    def _some(self, of: Iterable[str]) -> set[str]:
        return {one for one in sorted(of) if self.random.random() < 0.6}


def _region(name: str) -> model.Region:
    return model.Region(array="x", lun=3) if name == "x" else model.Region(device=name)


def _is_as_configured(running: Running) -> bool:
    config, assembly = running.daemon.config, running.assembly
    virtual_devices = {virtual_device.name for virtual_device in config.virtual_devices}
    return (
        store.load(running.file) == config
        and set(assembly.devices) == {device.name for device in config.devices}
        and set(assembly.arrays) == {array.name for array in config.arrays}
        and set(assembly.virtual_devices) == set(assembly.units.by_name()) == virtual_devices
        and len(list(assembly.units.units())) == len(virtual_devices)
        and {row.name for row in assembly.table.rows()} == virtual_devices
        and {address for address, _ in running.portals} == set(addresses(config))
        and all(device.state is DeviceState.READY for device in assembly.devices.values())
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_wished_and_whatever_fails_the_daemon_is_as_its_configuration_says(
    test: Test, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    universe = Universe(tmp_path, seed)

    async def body(running: Running) -> None:
        numbers: dict[int, bytes] = {}
        failed = made = 0
        await running.change(_touched)  # from now on the ids are in the file
        for _ in range(40):
            before = running.picture()
            with monkeypatch.context() as patched:
                breaks = universe.random.choice([None, None, _record_full, _portal_taken, _file_full])
                if breaks is not None:
                    breaks(running, patched)
                try:
                    await running.change(universe.wish)
                    made += 1
                except ConfigError:
                    assert breaks is not None
                    failed += 1
                    assert running.picture() == before
            if breaks is _record_full:
                await running.change(_touched)  # what could not be recorded then is recorded with the next
            assert _is_as_configured(running)
            for row in running.assembly.table.rows():
                assert numbers.setdefault(row.number, row.naa_bytes) == row.naa_bytes
        assert failed >= 5
        assert made >= 10
        stored = MappingTable(running.state, running.assembly._workers).rows()
        assert {row.name for row in stored} >= {row.name for row in running.assembly.table.rows()}

    with caplog.at_level(logging.CRITICAL):
        test(body)


def _touched(config: model.Config) -> model.Config:
    config.targets[0].acls = [] if config.targets[0].acls else [model.Acl(initiator="iqn.2026-11.org.example:host")]
    return config
