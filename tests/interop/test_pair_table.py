"""What each command does in each state of a pair, on a real annexd, as a host and as the admin command it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from scsi.array_commands import ArrayIn, ArrayOut, FenceLevel, PairCreate, encode_pair_create
from scsi.iscsi.initiator_task import Task
from tests.support.control import Answer
from tests.support.host import GOOD, Host, sense_of, write_cdb
from tests.support.many_pairs import ManyPairs, many_pairs
from tests.support.pair_commands import array_in, array_out, naa_of

pytestmark = [pytest.mark.interop, pytest.mark.slow]

LEG_BYTES = 16 << 20
KINDS = ("LE", "LL", "EL", "EE")  # where primary and secondary lie: local or external
LIMIT_S = 30.0
NO_PAIR, FORBIDDEN = (0x05, 0x80, 0x08), (0x05, 0x80, 0x09)
REFUSED = "refused"
REVERSE, SWAP = 1, 2

# In the order of the columns of the specification; REFUSED, or the states that a pair may have right afterwards.
STATES = ("COPY", "PAIR", "PSUS", "PSUE", "SSWS")
TABLE = {
    "create": ("COPY", "PAIR", REFUSED, REFUSED, REFUSED),
    "split": ("PSUS", "PSUS", "PSUS", REFUSED, REFUSED),
    "resync": ("COPY", "PAIR", "COPY PAIR", "COPY PAIR", REFUSED),
    "reverse": (REFUSED, REFUSED, "COPY PAIR", REFUSED, REFUSED),
    "swap": (REFUSED, REFUSED, REFUSED, REFUSED, "COPY PAIR"),
    "delete": ("SMPL", "SMPL", "SMPL", "SMPL", "SMPL"),
    "takeover": (REFUSED, "PAIR", "SSWS", "SSWS", "SSWS"),
    "verify": (REFUSED, "PAIR", REFUSED, REFUSED, REFUSED),
}
CELLS = [(command, state, after) for command, row in TABLE.items() for state, after in zip(STATES, row, strict=True)]
WIRE = {
    "split": (ArrayOut.PAIR_SPLIT, 0),
    "resync": (ArrayOut.PAIR_RESYNC, 0),
    "reverse": (ArrayOut.PAIR_RESYNC, REVERSE),
    "swap": (ArrayOut.PAIR_RESYNC, SWAP),
    "delete": (ArrayOut.PAIR_DELETE, 0),
    "takeover": (ArrayOut.PAIR_TAKEOVER, 0),
    "verify": (ArrayOut.PAIR_VERIFY, 0),
}


class Way(NamedTuple):
    """One way of commanding the pair of LUNs 2n and 2n + 1; each gives "" or the refusal: "refused" or "no pair"."""

    create: Callable[[int, bool], str]
    command: Callable[[int, str], str]


class Bench:
    """annexd, a host, and the admin; no pair is left from one test to the next."""

    def __init__(self, running: ManyPairs, host: Host) -> None:
        self.running = running
        self.host = host
        self.ways = {"host": Way(self._host_creates, self._host_commands),
                     "admin": Way(self._admin_creates, self._admin_commands)}  # fmt: skip

    def row(self, kind: int) -> dict[str, str] | None:
        """What the control API shows of the pair of a kind, by its LUs."""
        names = {f"primary{kind}", f"secondary{kind}"}
        return next(
            (row for row in self.running.api.get("/v1/pairs") if {row["primary"], row["secondary"]} == names), None
        )

    def state(self, kind: int) -> str:
        row = self.row(kind)
        return "SMPL" if row is None else row["state"]

    def wait_for(self, kind: int, *states: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while self.state(kind) not in states:
            assert time.monotonic() < deadline, self.row(kind)
            time.sleep(0.02)

    def bring_to(self, kind: int, state: str) -> None:
        """Form a pair, and bring it to a state; in PSUE its secondary is lost by an error, and well again."""
        way = self.ways["admin"]
        assert way.create(kind, state == "COPY") == ""
        if state in {"PSUS", "SSWS"}:
            assert way.command(kind, "split") == ""
        if state == "SSWS":
            assert way.command(kind, "takeover") == ""
        if state == "PSUE":
            lun = 2 * kind + 2
            self.running.array.set_unit_parameter("readonly", "1", lun=lun)
            assert self.host.command(write_cdb(0, 1), data_out=bytes(512), lun=2 * kind).status == GOOD
            self.running.array.set_unit_parameter("readonly", "0", lun=lun)
        assert self.state(kind) == state

    def clear(self) -> None:
        for row in self.running.api.get("/v1/pairs"):
            assert self.running.api.ask("DELETE", f"/v1/pairs/{row['number']}").status == 200

    def _primary_is_first(self, kind: int) -> bool:
        row = self.row(kind)
        return row is None or row["primary"].startswith("primary")

    def _host_creates(self, kind: int, copies: bool) -> str:
        pace = 1 if copies else 0
        parameters = PairCreate(FenceLevel.STATUS, not copies, pace, naa_of(self.host, 2 * kind + 1))
        return self._told(
            array_out(self.host, ArrayOut.PAIR_CREATE, parameters=encode_pair_create(parameters), lun=2 * kind)
        )

    def _host_commands(self, kind: int, command: str) -> str:
        action, flags = WIRE[command]
        to_first = self._primary_is_first(kind) != (command == "takeover")
        return self._told(array_out(self.host, action, flags=flags, lun=2 * kind + (not to_first)))

    def _told(self, task: Task) -> str:
        return "" if task.status == GOOD else {NO_PAIR: "no pair", FORBIDDEN: REFUSED}[sense_of(task)]

    def _admin_creates(self, kind: int, copies: bool) -> str:
        form = {"primary": f"primary{kind}", "secondary": f"secondary{kind}", "fence_level": "status", "copy": copies}
        return self._answered(self.running.api.ask("POST", "/v1/pairs", form | ({"pace_mib_s": 1} if copies else {})))

    def _admin_commands(self, kind: int, command: str) -> str:
        row = self.row(kind)
        path = f"/v1/pairs/{row['number'] if row else 999999}"
        if command == "delete":
            return self._answered(self.running.api.ask("DELETE", path))
        answer = self.running.api.ask("POST", f"{path}/{command}")
        if command == "verify" and answer.status == 202:
            job = f"/v1/jobs/{answer.document['job']['id']}"
            deadline = time.monotonic() + LIMIT_S
            while self.running.api.get(job)["state"] == "running":
                assert time.monotonic() < deadline
                time.sleep(0.02)
        return self._answered(answer)

    def _answered(self, answer: Answer) -> str:
        return {200: "", 201: "", 202: "", 404: "no pair", 409: REFUSED}[answer.status]


@pytest.fixture(scope="module")
def module_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("table")
    with (
        many_pairs(folder, len(KINDS), LEG_BYTES, kinds="".join(KINDS), formed=0) as running,
        running.host() as host,
    ):
        yield Bench(running, host)


@pytest.fixture
def bench(module_bench: Bench) -> Iterator[Bench]:
    yield module_bench
    module_bench.clear()


@pytest.mark.parametrize("way", ["host", "admin"])
@pytest.mark.parametrize(("command", "state", "after"), CELLS)
def test_a_command_does_in_each_state_what_the_table_says(
    bench: Bench, way: str, command: str, state: str, after: str
) -> None:
    bench.bring_to(0, state)
    before = bench.row(0)
    do = bench.ways[way]
    told = do.create(0, True) if command == "create" else do.command(0, command)
    assert told == (REFUSED if after == REFUSED else "")
    assert bench.state(0) in (state if after == REFUSED else after).split()
    turned = command == "swap" or (command, state) == ("takeover", "PAIR")
    row = bench.row(0)
    if row is not None and before is not None:
        assert (row["primary"] != before["primary"]) == (turned and not told)


@pytest.mark.parametrize("way", ["host", "admin"])
@pytest.mark.parametrize("command", [command for command in TABLE if command != "create"])
def test_a_command_to_a_pair_that_is_not_there_says_so(bench: Bench, way: str, command: str) -> None:
    assert bench.ways[way].command(0, command) == "no pair"


@pytest.mark.parametrize("way", ["host", "admin"])
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_a_pair_lives_through_every_command_wherever_its_legs_lie(bench: Bench, way: str, kind: int) -> None:
    do = bench.ways[way].command
    first, second = bench.running.primaries[kind], bench.running.secondaries[kind]

    def write(lun: int, value: int) -> None:
        data = bytes([value]) * 4096
        assert bench.host.command(write_cdb(64, 8), data_out=data, lun=2 * kind + lun).status == GOOD

    def shown() -> tuple[int, int]:
        return first.read_bytes()[64 * 512], second.read_bytes()[64 * 512]

    write(0, 1)
    form = {"primary": f"primary{kind}", "secondary": f"secondary{kind}"}
    assert bench.running.api.ask("POST", "/v1/pairs", form).status == 201
    bench.wait_for(kind, "PAIR")
    assert shown() == (1, 1)
    assert do(kind, "split") == ""
    write(0, 2)
    assert shown() == (2, 1)
    assert do(kind, "resync") == ""
    bench.wait_for(kind, "PAIR")
    assert shown() == (2, 2)
    assert do(kind, "split") == ""
    write(0, 3)
    assert do(kind, "reverse") == ""
    bench.wait_for(kind, "PAIR")
    assert shown() == (2, 2)
    assert do(kind, "split") == ""
    assert do(kind, "takeover") == ""
    write(1, 4)
    assert shown() == (2, 4)
    assert do(kind, "swap") == ""
    bench.wait_for(kind, "PAIR")
    write(1, 5)
    assert shown() == (5, 5)
    assert do(kind, "takeover") == ""
    write(0, 6)
    assert shown() == (6, 6)
    assert do(kind, "verify") == ""
    assert bench.row(kind) is not None
    assert array_in(bench.host, ArrayIn.REPORT_PAIRS).status == GOOD
    assert first.read_bytes() == second.read_bytes()
    assert do(kind, "delete") == ""
    write(0, 7)
    assert shown() == (7, 6)
