"""Sessions when the configuration changes: each gets what it would get if it logged in now, or ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from config import model
from daemon.hosts import PortalHosts
from daemon.sessions import Sessions
from scsi.access_states import AccessState
from scsi.iscsi.directory import Addresses, Admission
from scsi.iscsi.events import EndReason, SessionEnded
from scsi.logical_unit import LogicalUnit
from scsi.nexus import Nexus
from tests.support.clock import VirtualScheduler
from tests.support.memory_volume import MemoryVolume

TARGET = "iqn.2026-11.org.example:annex"
HOST = "iqn.2026-11.org.example:host"
PORTAL = ("127.0.0.1", 3260)
SECRET, OTHER_SECRET = "a secret of the host", "another of the host"
LUNS_CHANGED = (0x3F, 0x0E)


def configuration() -> model.Config:
    target = model.Target(
        name=TARGET,
        portals=["127.0.0.1:3260"],
        luns=[model.Lun(lun=0, virtual_device="v")],
        acls=[model.Acl(initiator=HOST)],
    )
    return model.Config(version=2, state_directory="/state", targets=[target])


class FakeSession:
    """What `Sessions` looks at of a session."""

    initiator_name = HOST
    isid = bytes(6)
    target_name = TARGET
    target_portal_group_tag = 1
    discovery = False

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.ended = False


class House:
    """Sessions at one portal, whose configuration changes."""

    def __init__(self) -> None:
        self.config = configuration()
        self.units = {name: LogicalUnit(MemoryVolume(), number.to_bytes(16, "big")) for number, name in enumerate("vw")}
        self.hosts = PortalHosts(self.config, PORTAL)
        self.scheduler = VirtualScheduler()
        self.gone: list[str] = []
        self.sessions = Sessions(lambda: self.units, self.scheduler, self.gone.append)

    def change(self, edit: Callable[[model.Target], object]) -> None:
        edit(self.config.targets[0])
        self.hosts.use(self.config)
        self.sessions.readmit()

    def begin(self) -> Any:
        """Begin a login: it is admitted."""
        return FakeSession(self.hosts.admit(HOST, TARGET, Addresses("127.0.0.1", 40000, *PORTAL)))

    def log_in(self, session: Any) -> Any:
        """End a login: the session is there."""

        def end() -> None:
            session.ended = True
            self.sessions.session_ended(SessionEnded(session, EndReason.ADMINISTRATIVE))

        self.sessions.logged_in(session, end)
        return session


@pytest.fixture
def house() -> House:
    return House()


def shown(nexus: Nexus) -> dict[int, tuple[LogicalUnit, bool]]:
    return {lun[1]: (mapped.logical_unit, mapped.read_only) for lun, mapped in nexus.lun_map.items()}


def test_a_host_is_shown_what_the_new_configuration_shows_it(house: House) -> None:
    session = house.log_in(house.begin())
    v, w = house.units.values()
    assert shown(session.nexus) == {0: (v, False)}
    session.nexus.attentions.clear()
    house.change(lambda target: target.luns.append(model.Lun(lun=5, virtual_device="w", read_only=True)))
    assert shown(session.nexus) == {0: (v, False), 5: (w, True)}
    assert [(pending[0].asc, pending[0].ascq) for pending in session.nexus.attentions.values()] == [LUNS_CHANGED] * 2
    house.change(lambda target: setattr(target.acls[0], "luns", []))
    assert shown(session.nexus) == {}
    assert not session.ended


def test_a_session_with_another_connection_goes_on_as_it_was_and_ends_by_that_one(house: House) -> None:
    session = house.log_in(house.begin())
    nexus, ended = session.nexus, []
    execute = house.sessions.logged_in(session, lambda: ended.append("the new connection"))
    assert session.nexus is nexus
    assert execute == house.sessions._ports[TARGET].execute  # and not what answers for no logical unit
    house.sessions.end(session, "for the test")
    assert ended == ["the new connection"]
    assert not session.ended


def test_what_a_host_may_do_changes_while_it_is_logged_in(house: House) -> None:
    session = house.log_in(house.begin())
    assert session.nexus.array_control
    house.change(lambda target: setattr(target.acls[0], "array_control", False))
    assert not session.nexus.array_control


def give_chap(secret: str) -> Callable[[model.Target], None]:
    return lambda target: setattr(target.acls[0], "chap", model.Chap(name="host", secret=secret))


def to_anyone(target: model.Target) -> None:
    target.acls, target.anyone = [], model.Anyone(addresses=["127.0.0.1"])


@pytest.mark.parametrize(
    "edit",
    [
        lambda target: target.acls.clear(),
        to_anyone,
        lambda target: setattr(target, "name", "iqn.2026-11.org.example:another"),
        lambda target: setattr(target, "portals", ["127.0.0.1:3261"]),
        lambda target: setattr(target, "portal_groups", {"127.0.0.1:3260": 2}),
        give_chap(SECRET),
    ],
)
def test_a_session_that_would_not_be_let_in_like_this_any_more_ends(
    house: House, edit: Callable[[model.Target], object]
) -> None:
    session = house.log_in(house.begin())
    house.change(edit)
    assert session.ended
    house.scheduler.run_until_idle()
    assert house.gone == [HOST]
    assert house.units["v"].nexuses == set()


def test_a_host_that_has_proved_itself_stays_when_its_secret_changes(house: House) -> None:
    house.change(give_chap(SECRET))
    session = house.log_in(house.begin())
    house.change(give_chap(OTHER_SECRET))
    assert not session.ended
    house.change(lambda target: setattr(target.acls[0], "chap", None))
    assert not session.ended
    house.change(give_chap(SECRET))  # it proved itself before, but not for what it is now
    assert session.ended


def test_target_ports_of_two_targets_have_two_numbers_and_after_a_restart_the_same(house: House) -> None:
    numbers = [house.sessions.port(name).groups.of(tag).identifier for name in (TARGET, f"{TARGET}2") for tag in (1, 2)]
    assert len(set(numbers)) == 4
    again = House()
    assert again.sessions.port(f"{TARGET}2").groups.of(2).identifier == numbers[3]


def test_target_ports_whose_names_make_the_same_number_share_it_out(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zlib.crc32", lambda _name: 0xFFFE)
    numbers = [house.sessions.port(TARGET).groups.of(tag).identifier for tag in (1, 2, 1, 3)]
    assert numbers == [0xFFFF, 1, 0xFFFF, 2]


def test_the_access_state_of_a_group_is_that_of_its_sessions(house: House) -> None:
    session = house.log_in(house.begin())
    house.sessions.port(TARGET).groups.hold(1, AccessState.STANDBY)
    assert session.nexus.port_group.state is AccessState.STANDBY
    assert house.log_in(house.begin()).nexus.port_group.state is AccessState.STANDBY


def test_a_login_under_way_while_the_configuration_changes_gets_what_is_in_force_at_its_end(house: House) -> None:
    session = house.begin()
    house.change(lambda target: setattr(target.luns[0], "virtual_device", "w"))
    del house.units["v"]
    assert shown(house.log_in(session).nexus) == {0: (house.units["w"], False)}


def test_a_login_under_way_that_is_not_admitted_any_more_sees_nothing_and_ends(house: House) -> None:
    session = house.begin()
    house.change(lambda target: target.acls.clear())
    house.log_in(session)
    assert shown(session.nexus) == {}
    house.scheduler.run_until_idle()
    assert session.ended
    assert house.gone == [HOST]


def test_a_session_that_ends_by_itself_is_not_ended_once_more(house: House) -> None:
    session = house.begin()
    house.change(lambda target: target.acls.clear())
    house.log_in(session)
    house.sessions.session_ended(SessionEnded(session, EndReason.LOGOUT))
    house.scheduler.run_until_idle()
    assert not session.ended
