import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from scsi.command_set import COMMANDS
from scsi.commands import Allow, Command
from scsi.logical_unit import LogicalUnit
from scsi.nexus import Nexus
from scsi.persistent_reserve import KIND
from scsi.registrations import MOST_REGISTRATIONS, Type
from scsi.saved_parameters import SavedParameters
from scsi.status import Status
from scsi.target import TargetPort
from scsi.task_management import Function
from scsi.transport_ids import encode_transport_id
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume
from tests.support.saved import FakeSaved

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, IGNORE, MOVE, REPLACE_LOST = range(9)
READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES, READ_FULL_STATUS = range(4)
CONFLICT, GOOD = "RESERVATION CONFLICT", "GOOD"
ONE, TWO, THREE = 0x1111, 0x2222, 0x3333
WE, EA, WE_RO, EA_RO, WE_AR, EA_AR = Type
NAMES = ("one", "two", "three")


class World:
    """A unit and three hosts that see it."""

    def __init__(self, saved: SavedParameters | None = None) -> None:
        self.volume = MemoryVolume()
        self.saved = saved or FakeSaved()
        self.unit = LogicalUnit(self.volume, c.NAA, saved=self.saved)
        self.port = TargetPort()
        self.one, self.two, self.three = self.hosts = [
            c.Host(self.port, self.unit, f"iqn.2026-11.org.example:{name}") for name in NAMES
        ]

        self.asker = c.Host(self.port, self.unit, "iqn.2026-11.org.example:asker")

    def out(self, host: c.Host, action: int, key: int = 0, new: int = 0, **how: int | bytes) -> c.FakeCommand:
        """Send PERSISTENT RESERVE OUT; `kind` is scope and type, `flags` byte 20, `more` follows the list."""
        more = how.get("more", b"")
        assert isinstance(more, bytes)
        data = struct.pack(">QQ4xB3x", key, new, how.get("flags", 0)) + more
        return host.send(struct.pack(">BBB2xIx", 0x5F, action, how.get("kind", 0), how.get("length", len(data))), data)

    def move(self, host: c.Host, key: int, new: int, to: bytes, *, flags: int = 0, port: int = 1) -> c.FakeCommand:
        data = struct.pack(">QQxBHI", key, new, flags, port, len(to)) + to
        return host.send(struct.pack(">BBB2xIx", 0x5F, MOVE, 0, len(data)), data)

    def ask(self, action: int) -> bytes:
        return self.asker.send(struct.pack(">BB5xHx", 0x5E, action, 4096)).data

    def registered(self, *hosts: c.Host) -> None:
        """Register hosts, the first with key ONE, and so on."""
        for host, key in zip(hosts, (ONE, TWO, THREE), strict=False):
            assert self.out(host, REGISTER, 0, key).outcome == GOOD

    def keys(self) -> list[int]:
        data = self.ask(READ_KEYS)
        assert int.from_bytes(data[4:8], "big") == len(data) - 8
        return [int.from_bytes(data[at : at + 8], "big") for at in range(8, len(data), 8)]

    def reservation(self) -> tuple[int, int] | None:
        """Give key and type."""
        data = self.ask(READ_RESERVATION)
        return None if len(data) == 8 else (int.from_bytes(data[8:16], "big"), data[21])

    def generation(self) -> int:
        return int.from_bytes(self.ask(READ_KEYS)[:4], "big")

    def restarted(self) -> "World":
        return World(self.saved)


@pytest.fixture
def world() -> World:
    return World()


def attentions(host: c.Host) -> list[str]:
    found = []
    while (outcome := host.send(bytes(6)).outcome) != GOOD and outcome != CONFLICT:
        found.append(outcome)
    return found


# --- Registering ------------------------------------------------------------------------------------------------------


def test_a_key_is_registered_changed_and_taken_back(world: World) -> None:
    assert world.out(world.one, REGISTER, 0, ONE).outcome == GOOD
    assert world.keys() == [ONE]
    assert world.out(world.one, REGISTER, 0, TWO).outcome == CONFLICT, "it has a key already"
    assert world.out(world.one, REGISTER, ONE, TWO).outcome == GOOD
    assert world.keys() == [TWO]
    assert world.out(world.one, REGISTER, TWO, 0).outcome == GOOD
    assert world.keys() == []
    assert world.out(world.one, REGISTER, TWO, ONE).outcome == CONFLICT, "it has none any more"
    assert world.out(world.one, REGISTER, 0, 0).outcome == GOOD, "nothing to be taken back"


def test_the_key_there_may_be_ignored(world: World) -> None:
    assert world.out(world.one, IGNORE, 99, ONE).outcome == GOOD
    assert world.out(world.one, IGNORE, 98, TWO).outcome == GOOD
    assert world.keys() == [TWO]
    assert world.out(world.one, IGNORE, 97, 0).outcome == GOOD
    assert world.out(world.one, IGNORE, 96, 0).outcome == GOOD
    assert world.keys() == []


def test_generation_counts_what_changes_registrations(world: World) -> None:
    world.registered(world.one, world.two)
    assert world.generation() == 2
    world.out(world.one, RESERVE, ONE, kind=WE)
    world.out(world.one, RELEASE, ONE, kind=WE)
    assert world.generation() == 2
    world.out(world.one, PREEMPT, ONE, TWO)
    assert world.generation() == 3
    world.out(world.one, CLEAR, ONE)
    assert world.generation() == 4
    assert world.restarted().generation() == 0


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT])
def test_who_is_not_registered_by_that_key_may_do_nothing(world: World, action: int) -> None:
    world.registered(world.one)
    assert world.out(world.two, action, 0, ONE, kind=WE).outcome == CONFLICT
    assert world.out(world.one, action, TWO, ONE, kind=WE).outcome == CONFLICT
    assert world.keys() == [ONE]


def test_registrations_are_bounded(world: World) -> None:
    ids = b"".join(encode_transport_id(f"iqn.2026-11.org.example:n{n},i,0x{n:012x}") for n in range(MOST_REGISTRATIONS))
    flags, more = 0x08, struct.pack(">I", len(ids)) + ids
    assert world.out(world.one, REGISTER, 0, ONE, flags=flags, more=more).outcome == "05/55/04"
    assert world.keys() == []


# --- Who may do what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Type))
@pytest.mark.parametrize("row", COMMANDS.rows, ids=lambda row: row.name)
def test_each_command_is_let_through_as_its_row_says(kind: Type, row: Command) -> None:
    table = {
        Allow.ANYWHERE: (True, True), Allow.PERSISTENT: (True, True),
        Allow.WRITE_EXCLUSIVE: (kind in (WE, WE_RO, WE_AR), kind is not EA),
        Allow.NOWHERE: (False, kind not in (WE, EA)),
    }  # fmt: skip
    world = World()
    world.registered(world.one, world.two)
    assert world.out(world.one, RESERVE, ONE, kind=kind).outcome == GOOD
    reservations = world.unit.persistent_reservations
    strange, known = table[row.allow]
    assert reservations.conflicts(world.three.nexus, row.allow) is not strange
    assert reservations.conflicts(world.two.nexus, row.allow) is not known
    assert not reservations.conflicts(world.one.nexus, row.allow)


@pytest.mark.parametrize("kind", list(Type))
def test_reads_and_writes_under_each_type(world: World, kind: Type) -> None:
    world.registered(world.one, world.two)
    world.out(world.one, RESERVE, ONE, kind=kind)
    read, write = c.read_10(0, 1), c.write_10(0, 1)
    shared = kind not in (WE, EA)
    reads = kind in (WE, WE_RO, WE_AR)
    assert world.one.send(write, bytes(512)).outcome == GOOD
    assert world.two.send(write, bytes(512)).outcome == (GOOD if shared else CONFLICT)
    assert world.two.send(read).outcome == (GOOD if shared or reads else CONFLICT)
    assert world.three.send(write, bytes(512)).outcome == CONFLICT
    assert world.three.send(read).outcome == (GOOD if reads else CONFLICT)
    assert world.three.send(bytes(6)).outcome == GOOD
    assert world.reservation() == (0 if kind in (WE_AR, EA_AR) else ONE, kind)
    assert world.out(world.one, RELEASE, ONE, kind=kind).outcome == GOOD
    assert world.three.send(write, bytes(512)).outcome == GOOD


@pytest.mark.parametrize("kind", [WE, EA])
def test_a_unit_may_be_started_under_a_reservation_of_another_and_not_stopped(world: World, kind: Type) -> None:
    world.registered(world.one)
    world.out(world.one, RESERVE, ONE, kind=kind)
    assert world.two.send(bytes.fromhex("1b0000000100")).outcome == GOOD
    assert world.two.send(bytes.fromhex("1b0000000000")).outcome == CONFLICT
    assert world.one.send(bytes.fromhex("1b0000000000")).outcome == GOOD


@pytest.mark.parametrize("cdb", ["1c000000ff00", "3c0a0000000000000400", "3c0b0000000000000400"])
def test_what_only_reads_is_let_through_while_writers_are_kept_out(world: World, cdb: str) -> None:
    world.registered(world.one)
    world.out(world.one, RESERVE, ONE, kind=EA)
    assert world.two.send(bytes.fromhex(cdb)).outcome == CONFLICT
    world.out(world.one, RELEASE, ONE, kind=EA)
    world.out(world.one, RESERVE, ONE, kind=WE)
    assert world.two.send(bytes.fromhex(cdb)).outcome != CONFLICT


@pytest.mark.parametrize("kind", list(Type))
def test_only_who_may_do_anything_is_spared_the_check_of_each_command(
    world: World, kind: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.registered(world.one, world.two)
    world.out(world.one, RESERVE, ONE, kind=kind)
    again = c.Host(world.port, world.unit, "iqn.2026-11.org.example:one")  # a session that began afterwards
    asked: list[str] = []
    reservations = world.unit.persistent_reservations
    rules = reservations.conflicts

    def conflicts(nexus: Nexus, allow: Allow) -> bool:
        asked.append(nexus.initiator_name.rpartition(":")[2])
        return rules(nexus, allow)

    monkeypatch.setattr(reservations, "conflicts", conflicts)
    for host in (*world.hosts, again):
        host.send(c.write_10(0, 1), bytes(512))
    shared = kind not in (WE, EA)
    assert asked == (["three"] if shared else ["two", "three"])
    world.out(world.two, PREEMPT, TWO, ONE, kind=EA)
    world.one.nexus.attentions.clear()
    assert world.one.send(c.write_10(0, 1), bytes(512)).outcome == CONFLICT, "it is not spared any more"
    world.out(world.two, CLEAR, TWO)
    del asked[:]
    assert [host.send(c.read_10(0, 1)).outcome for host in world.hosts] == [GOOD] * 3
    assert asked == []


@pytest.mark.parametrize("kind", [WE, EA_RO])
def test_who_is_spared_is_still_held_to_every_other_rule(world: World, kind: Type) -> None:
    world.registered(world.one)
    world.out(world.one, RESERVE, ONE, kind=kind)
    held: list[None] = []
    world.unit.drain(lambda: held.append(None))
    command = world.one.send(c.write_10(0, 1), bytes(512))
    assert command.answer is None, "a drain holds it"
    world.unit.resume()
    assert (held, command.outcome) == ([None], GOOD)


def test_reserving_again_and_by_another(world: World) -> None:
    world.registered(world.one, world.two)
    assert world.out(world.one, RESERVE, ONE, kind=WE).outcome == GOOD
    assert world.out(world.one, RESERVE, ONE, kind=WE).outcome == GOOD
    assert world.out(world.one, RESERVE, ONE, kind=EA).outcome == CONFLICT
    assert world.out(world.two, RESERVE, TWO, kind=WE).outcome == CONFLICT
    assert world.out(world.two, RELEASE, TWO, kind=WE).outcome == GOOD, "it holds nothing, and that is no error"
    assert world.out(world.one, RELEASE, ONE, kind=EA).outcome == "05/26/04"
    assert world.reservation() == (ONE, WE)


@pytest.mark.parametrize("kind", [0, 2, 4, 9, 15, 0x11, 0xF1])
def test_types_and_scopes_that_there_are_not_are_refused(world: World, kind: int) -> None:
    world.registered(world.one)
    assert world.out(world.one, RESERVE, ONE, kind=kind).outcome == "05/24/00"


@pytest.mark.parametrize(("kind", "heard"), [(WE, []), (EA, []), (WE_RO, ["06/2A/04"]), (EA_AR, ["06/2A/04"])])
def test_a_release_is_told_to_those_who_shared_it(world: World, kind: Type, heard: list[str]) -> None:
    world.registered(world.one, world.two)
    world.out(world.one, RESERVE, ONE, kind=kind)
    world.out(world.one, RELEASE, ONE, kind=kind)
    assert (attentions(world.one), attentions(world.two), attentions(world.three)) == ([], heard, [])


@pytest.mark.parametrize(("kind", "stays"), [(WE, False), (WE_RO, False), (WE_AR, True)])
def test_a_holder_that_takes_its_key_back_releases_what_it_alone_holds(world: World, kind: Type, stays: bool) -> None:
    world.registered(world.one, world.two)
    world.out(world.one, RESERVE, ONE, kind=kind)
    world.out(world.one, REGISTER, ONE, 0)
    assert (world.reservation() is not None) is stays
    assert attentions(world.two) == (["06/2A/04"] if kind is WE_RO else [])
    world.out(world.two, REGISTER, TWO, 0)
    assert world.reservation() is None, "the last one takes it along"


def test_a_reservation_outlives_its_session_and_resets_and_belongs_to_the_port(world: World) -> None:
    world.registered(world.one)
    world.out(world.one, RESERVE, ONE, kind=EA)
    world.one.leave()
    world.two.manage(Function.LOGICAL_UNIT_RESET)
    world.two.nexus.attentions.clear()
    assert world.two.send(c.read_10(0, 1)).outcome == CONFLICT
    again = c.Host(world.port, world.unit, "iqn.2026-11.org.example:one")
    assert again.send(c.read_10(0, 1)).outcome == GOOD


# --- Clearing and preempting ------------------------------------------------------------------------------------------


def test_clear_takes_everything_and_tells_the_others(world: World) -> None:
    world.registered(world.one, world.two)
    world.out(world.one, RESERVE, ONE, kind=EA)
    assert world.out(world.two, CLEAR, TWO).outcome == GOOD
    assert (world.keys(), world.reservation()) == ([], None)
    assert (attentions(world.one), attentions(world.two), attentions(world.three)) == (["06/2A/03"], [], [])


def test_preempting_the_holder_takes_its_place(world: World) -> None:
    world.registered(*world.hosts)
    world.out(world.one, RESERVE, ONE, kind=WE)
    assert world.out(world.two, PREEMPT, TWO, ONE, kind=EA_RO).outcome == GOOD
    assert world.reservation() == (TWO, EA_RO)
    assert world.keys() == [TWO, THREE]
    assert (attentions(world.one), attentions(world.two), attentions(world.three)) == (["06/2A/05"], [], ["06/2A/04"])
    assert world.one.send(c.read_10(0, 1)).outcome == CONFLICT


def test_preempting_others_leaves_the_reservation(world: World) -> None:
    world.registered(*world.hosts)
    world.out(world.one, RESERVE, ONE, kind=WE)
    assert world.out(world.two, PREEMPT, TWO, THREE, kind=WE).outcome == GOOD
    assert (world.keys(), world.reservation()) == ([ONE, TWO], (ONE, WE))
    assert world.out(world.two, PREEMPT, TWO, THREE).outcome == CONFLICT, "nobody has that key"
    assert world.out(world.two, PREEMPT, TWO, 0).outcome == "05/26/00"


def test_key_0_preempts_all_who_hold_a_reservation_together(world: World) -> None:
    world.registered(*world.hosts)
    world.out(world.one, RESERVE, ONE, kind=EA_AR)
    assert world.out(world.two, PREEMPT, TWO, 0, kind=WE).outcome == GOOD
    assert (world.keys(), world.reservation()) == ([TWO], (TWO, WE))
    assert attentions(world.one) == attentions(world.three) == ["06/2A/05"]


def test_a_holder_may_preempt_itself_to_change_the_type(world: World) -> None:
    world.registered(world.one, world.two)
    world.out(world.one, RESERVE, ONE, kind=WE)
    assert world.out(world.one, PREEMPT, ONE, ONE, kind=EA_RO).outcome == GOOD
    assert (world.keys(), world.reservation()) == ([ONE, TWO], (ONE, EA_RO))


@pytest.mark.parametrize(("action", "ended"), [(PREEMPT, None), (PREEMPT_AND_ABORT, Status.TASK_ABORTED)])
def test_only_preempt_and_abort_ends_what_the_preempted_do(world: World, action: int, ended: Status | None) -> None:
    world.registered(world.one, world.two)
    world.out(world.one, RESERVE, ONE, kind=WE)
    world.volume.hold = True
    theirs = world.one.send(c.write_10(0, 1), bytes(512))
    mine = world.two.send(c.read_10(8, 1))
    assert world.out(world.two, action, TWO, ONE, kind=WE).outcome == GOOD
    world.volume.release_all()
    assert theirs.status == (Status.GOOD if ended is None else ended)
    assert mine.outcome == GOOD


# --- Names ------------------------------------------------------------------------------------------------------------


def with_ids(*ids: bytes) -> bytes:
    return struct.pack(">I", len(b"".join(ids))) + b"".join(ids)


def name_only(name: str) -> bytes:
    raw = name.encode() + b"\0"
    raw = raw.ljust(max(20, (len(raw) + 3) // 4 * 4), b"\0")
    return struct.pack(">BBH", 0x05, 0, len(raw)) + raw


def test_others_are_registered_by_their_names(world: World) -> None:
    absent = encode_transport_id("iqn.2026-11.org.example:absent,i,0x80cafe000009")
    more = with_ids(name_only("iqn.2026-11.org.example:two"), absent)
    assert world.out(world.one, REGISTER, 0, ONE, flags=0x08, more=more).outcome == GOOD
    assert world.keys() == [ONE] * 3
    assert world.out(world.two, RESERVE, ONE, kind=EA).outcome == GOOD
    assert world.out(world.one, REGISTER, ONE, TWO, flags=0x08, more=more).outcome == "05/26/00", "it is registered"
    assert world.out(world.three, IGNORE, 0, THREE, flags=0x08, more=more).outcome == "05/26/00"


@pytest.mark.parametrize(
    "more",
    [
        with_ids(name_only("iqn.2026-11.org.example:nobody")),
        with_ids(b"\x06\0\0\x14" + bytes(20)),  # another protocol
        with_ids(b"\x85\0\0\x14" + b"iqn.2026-11.org.exa\0"),  # a format that there is not
        with_ids(b"\x45\0\0\x14" + b"iqn.2026-11.org.exa\0"),  # no ISID
        with_ids(b"\x05\0\0\x14" + b"x" * 20),  # no end
        with_ids(b"\x05\0\0\x18" + b"x" * 19 + b"\0"),  # cut
        with_ids(b"\x05\0\0\x10" + b"x" * 15 + b"\0"),  # short
    ],
)
def test_a_bad_name_is_refused_and_nobody_registered(world: World, more: bytes) -> None:
    assert world.out(world.one, REGISTER, 0, ONE, flags=0x08, more=more).outcome == "05/26/00"
    assert world.keys() == []


@pytest.mark.parametrize(
    "how",
    [
        {"length": 23},
        {"length": 0},
        {"more": bytes(4)},
        {"flags": 0x08},
        {"flags": 0x08, "more": bytes(3)},
        {"flags": 0x08, "more": b"\0\0\0\1"},
    ],
)
def test_a_parameter_list_of_the_wrong_length_is_refused(world: World, how: dict[str, int | bytes]) -> None:
    assert world.out(world.one, REGISTER, 0, ONE, **how).outcome == "05/1A/00"
    assert world.keys() == []


def test_a_registration_may_be_for_all_target_ports(world: World) -> None:
    elsewhere = c.Host(TargetPort(), world.unit, "iqn.2026-11.org.example:one")
    elsewhere.nexus.target_name = "iqn.2026-11.org.example:another"
    world.registered(world.one)
    assert world.out(elsewhere, RESERVE, ONE, kind=WE).outcome == CONFLICT, "another I_T nexus"
    world.out(world.one, REGISTER, ONE, 0)
    world.out(world.one, REGISTER, 0, ONE, flags=0x04)
    assert world.out(elsewhere, RESERVE, ONE, kind=EA).outcome == GOOD
    assert world.one.send(c.write_10(0, 1), bytes(512)).outcome == GOOD
    assert world.ask(READ_FULL_STATUS)[8 + 12] == 0x03, "ALL_TG_PT and R_HOLDER"


def test_a_registration_for_all_target_ports_stands_for_those_of_each(world: World) -> None:
    elsewhere = c.Host(TargetPort(), world.unit, "iqn.2026-11.org.example:one")
    elsewhere.nexus.target_portal_group_tag = 2
    world.registered(world.one)
    world.out(world.one, RESERVE, ONE, kind=EA)
    assert world.out(elsewhere, REGISTER, 0, TWO, flags=0x04).outcome == CONFLICT, "it is registered by the other port"
    assert world.keys() == [ONE]
    assert world.out(elsewhere, IGNORE, 0, TWO, flags=0x04).outcome == GOOD
    assert (world.keys(), world.reservation()) == ([TWO], (TWO, EA))
    assert world.one.send(c.write_10(0, 1), bytes(512)).outcome == GOOD
    assert world.out(world.one, REGISTER, TWO, 0).outcome == GOOD
    assert world.reservation() is None


def test_full_status_names_who_is_registered(world: World) -> None:
    world.registered(world.one, world.two)
    world.out(world.two, RESERVE, TWO, kind=EA_RO)
    data = world.ask(READ_FULL_STATUS)
    assert int.from_bytes(data[4:8], "big") == len(data) - 8
    at, found = 8, []
    while at < len(data):
        key, flags, kind, port, length = struct.unpack_from(">Q4xBB4xHI", data, at)
        name = data[at + 24 : at + 24 + length]
        assert name[0] == 0x45
        found.append((key, flags, kind, port, name[4:].rstrip(b"\0").decode()))
        at += 24 + length
    one, two = (host.nexus.initiator_port for host in (world.one, world.two))
    assert found == [(ONE, 0, 0, 1, one), (TWO, 1, EA_RO, 1, two)]


def test_a_reservation_is_moved_to_another_host(world: World) -> None:
    world.registered(world.one)
    there = encode_transport_id(world.three.nexus.initiator_port)
    assert world.move(world.one, ONE, THREE, there).outcome == CONFLICT, "there is none to be moved"
    world.out(world.one, RESERVE, ONE, kind=EA)
    assert world.move(world.one, TWO, THREE, there).outcome == CONFLICT
    assert world.move(world.one, ONE, 0, there).outcome == "05/26/00"
    assert world.move(world.one, ONE, THREE, there, port=9).outcome == "05/26/00"
    itself = encode_transport_id(world.one.nexus.initiator_port)
    assert world.move(world.one, ONE, THREE, itself).outcome == "05/26/00"
    assert world.move(world.one, ONE, THREE, there, flags=0x02).outcome == GOOD
    assert (world.keys(), world.reservation()) == ([THREE], (THREE, EA))
    assert world.three.send(c.write_10(0, 1), bytes(512)).outcome == GOOD
    assert world.one.send(c.read_10(0, 1)).outcome == CONFLICT


def test_a_reservation_is_moved_to_another_target_port(world: World) -> None:
    elsewhere = c.Host(world.port, world.unit, "iqn.2026-11.org.example:two")
    elsewhere.nexus.target_portal_group_tag = 2
    elsewhere.nexus.port_group = world.port.groups.of(2)
    world.registered(world.one)
    world.out(world.one, RESERVE, ONE, kind=EA)
    there = encode_transport_id(elsewhere.nexus.initiator_port)
    assert world.move(world.one, ONE, TWO, there, port=3).outcome == "05/26/00"
    assert world.move(world.one, ONE, TWO, there, port=2).outcome == GOOD
    assert elsewhere.send(c.read_10(0, 1)).outcome == GOOD
    assert world.two.send(c.read_10(0, 1)).outcome == CONFLICT, "the same host by the other port"
    assert world.reservation() == (TWO, EA)


def test_nothing_is_ever_lost_that_could_be_replaced(world: World) -> None:
    world.registered(world.one)
    assert world.out(world.one, REPLACE_LOST, 0, ONE, kind=WE).outcome == "05/24/00"


# --- Beside RESERVE ---------------------------------------------------------------------------------------------------


def test_reserve_and_persistent_reservations_exclude_each_other(world: World) -> None:
    world.one.send(c.RESERVE_6)
    for host in (world.one, world.two):
        assert world.out(host, REGISTER, 0, ONE).outcome == CONFLICT
    world.one.send(c.RELEASE_6)
    world.registered(world.one)
    for host in (world.one, world.two):
        assert host.send(c.RESERVE_6).outcome == CONFLICT, "registered, and no reservation"


@pytest.mark.parametrize(("kind", "second"), [(WE, CONFLICT), (WE_RO, GOOD), (EA_AR, GOOD)])
def test_who_has_it_already_gets_good_for_reserve_and_nothing_happens(world: World, kind: Type, second: str) -> None:
    world.registered(world.one, world.two)
    world.out(world.one, RESERVE, ONE, kind=kind)
    for cdb in (c.RESERVE_6, c.RELEASE_6, c.RESERVE_10, c.RELEASE_10):
        assert world.one.send(cdb).outcome == GOOD
        assert world.two.send(cdb).outcome == second
        assert world.three.send(cdb).outcome == CONFLICT
    assert world.unit.reservations.holder is None
    assert world.ask(REPORT_CAPABILITIES)[2] & 0x10, "CRH"


# --- Across restarts --------------------------------------------------------------------------------------------------


def test_with_aptpl_everything_is_there_after_a_restart(world: World) -> None:
    world.out(world.one, REGISTER, 0, ONE, flags=0x01)
    world.out(world.two, REGISTER, 0, TWO, flags=0x05)
    world.out(world.one, RESERVE, ONE, kind=EA)
    assert world.ask(REPORT_CAPABILITIES)[3] & 0x01
    again = world.restarted()
    assert (again.keys(), again.reservation()) == ([ONE, TWO], (ONE, EA))
    assert again.two.send(c.read_10(0, 1)).outcome == CONFLICT
    assert again.one.send(c.read_10(0, 1)).outcome == GOOD
    assert again.out(again.one, REGISTER, ONE, ONE, flags=0x00).outcome == GOOD, "and from now on nothing is kept"
    assert again.restarted().keys() == []


@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_who_has_nothing_to_take_back_does_not_end_what_is_kept(world: World, action: int) -> None:
    world.out(world.one, REGISTER, 0, ONE, flags=0x01)
    assert world.out(world.two, action, 0, 0).outcome == GOOD
    assert world.restarted().keys() == [ONE]


def test_without_aptpl_nothing_is(world: World) -> None:
    world.registered(world.one)
    assert world.restarted().keys() == []


def test_an_answer_comes_when_it_is_stable_and_one_after_the_other(world: World) -> None:
    saved = world.saved
    assert isinstance(saved, FakeSaved)
    saved.hold = True
    first = world.out(world.one, REGISTER, 0, ONE, flags=0x01)
    second = world.out(world.two, REGISTER, 0, TWO, flags=0x01)
    assert (first.answer, second.answer, world.keys()) == (None, None, [])
    assert world.two.send(c.read_10(0, 1)).outcome == GOOD, "no other command waits"
    saved.release()
    assert (first.outcome, second.answer, world.keys()) == (GOOD, None, [ONE])
    saved.release()
    assert (second.outcome, world.keys()) == (GOOD, [ONE, TWO])


def test_what_can_not_be_saved_is_not_done(world: World) -> None:
    saved = world.saved
    assert isinstance(saved, FakeSaved)
    world.out(world.one, REGISTER, 0, ONE, flags=0x01)
    saved.problem = "disk full"
    assert world.out(world.one, RESERVE, ONE, kind=EA).outcome == "04/44/00"
    assert world.reservation() is None
    assert world.restarted().keys() == [ONE]


def test_a_unit_that_keeps_nothing_refuses_aptpl() -> None:
    unit = LogicalUnit(MemoryVolume(), c.NAA)
    host = c.Host(TargetPort(), unit)
    data = struct.pack(">QQ4xB3x", 0, ONE, 0x01)
    assert host.send(struct.pack(">BBB2xIx", 0x5F, REGISTER, 0, 24), data).outcome == "05/26/00"
    assert host.send(struct.pack(">BB5xHx", 0x5E, REPORT_CAPABILITIES, 8)).data[2] & 0x01 == 0


@pytest.mark.parametrize(
    "document",
    [{}, {"registrations": 1, "type": None, "holder": None}, {"registrations": [], "type": 2, "holder": None},
     {"registrations": [], "type": 1, "holder": 0}],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a record of persistent reservations"):
        World(FakeSaved(**{KIND: document}))


# --- Any order --------------------------------------------------------------------------------------------------------

hosts = st.integers(0, 2)
keys = st.sampled_from([0, ONE, TWO, THREE])
kinds = st.sampled_from([*Type, 0, 2])


class AnyOrder(RuleBasedStateMachine):
    """Any service actions of three hosts; what must hold between any two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.last = 0

    @rule(
        host=hosts, action=st.sampled_from(range(7)), key=keys, new=keys, kind=kinds, flags=st.sampled_from([0, 1, 4])
    )
    def act(self, host: int, action: int, key: int, new: int, kind: int, flags: int) -> None:
        outcome = self.world.out(self.world.hosts[host], action, key, new, kind=kind, flags=flags).outcome
        assert outcome in {GOOD, CONFLICT, "05/24/00", "05/26/00", "05/26/04"}

    @rule(host=hosts, to=hosts, key=keys, new=keys, leaves=st.booleans())
    def move(self, host: int, to: int, key: int, new: int, leaves: bool) -> None:
        there = encode_transport_id(self.world.hosts[to].nexus.initiator_port)
        self.world.move(self.world.hosts[host], key, new, there, flags=2 if leaves else 0)

    @rule(host=hosts)
    def restart(self, host: int) -> None:
        kept = self.world.unit.persistent_reservations.table
        self.world = self.world.restarted()
        after = self.world.unit.persistent_reservations.table
        assert after == (kept if kept.kept else after)
        assert kept.kept or not after.registrations
        self.last = 0

    @invariant()
    def a_reservation_is_held_by_somebody_who_is_registered(self) -> None:
        reservations = self.world.unit.persistent_reservations
        table = reservations.table
        assert all(registration.key for registration in table.registrations.values())
        if table.type in (WE_AR, EA_AR):
            assert table.holder is None
            assert table.registrations
        elif table.type is not None:
            assert table.holder in table.registrations
        else:
            assert table.holder is None
        assert reservations.generation >= self.last
        self.last = reservations.generation
        assert reservations.held is (table.type is not None)
        for host in self.world.hosts:
            host.nexus.attentions.clear()


@pytest.mark.slow
def test_any_order_of_service_actions() -> None:
    run_state_machine_as_test(
        AnyOrder, settings=settings(derandomize=True, max_examples=150, stateful_step_count=40, deadline=None)
    )
