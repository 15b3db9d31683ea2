from pathlib import Path

import pytest

from backends.state_directory import StateDirectory, StateError
from backends.unit_records import UnitRecords
from tests.support.clock import VirtualScheduler
from tests.support.workers import VirtualWorkers

NAA, OTHER = bytes(range(16)), bytes(16)


class Bench:
    def __init__(self, place: Path) -> None:
        self.clock = VirtualScheduler()
        self.state = StateDirectory(place)
        self.workers = VirtualWorkers(self.clock)
        self.records = UnitRecords(self.state, self.workers)

    def again(self) -> "Bench":
        self.state.close()
        return Bench(self.state.path)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")


def test_what_was_saved_is_there_after_a_restart_and_is_each_units_own(bench: Bench) -> None:
    said: list[str] = []
    bench.records.of(NAA).save("modes", {"swp": True}, said.append)
    assert said == [], "not before it is stable"
    bench.clock.run_until_idle()
    assert said == [""]
    bench = bench.again()
    assert bench.records.of(NAA).get("modes") == {"swp": True}
    assert bench.records.of(NAA).get("other") is None
    assert bench.records.of(OTHER).get("modes") is None


def test_kinds_are_replaced_and_removed_one_by_one_in_the_order_of_the_calls(bench: Bench) -> None:
    record = bench.records.of(NAA)
    said: list[int] = []
    for number in range(5):
        record.save("a", {"n": number}, lambda _, number=number: said.append(number))  # type: ignore[misc]  # bound early
    record.save("b", {"n": 9}, lambda _: said.append(9))
    record.save("a", None, lambda _: said.append(10))
    bench.clock.run_until_idle()
    assert said == [0, 1, 2, 3, 4, 9, 10]
    record = bench.again().records.of(NAA)
    assert (record.get("a"), record.get("b")) == (None, {"n": 9})


def test_what_could_not_be_saved_is_said_and_the_old_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    record = bench.records.of(NAA)
    record.save("a", {"n": 1}, lambda _: None)
    bench.clock.run_until_idle()

    def full(name: str, content: object) -> None:
        raise StateError(Path("state"), "can not be written: no space left on device")

    said: list[str] = []
    with monkeypatch.context() as broken:
        broken.setattr(bench.state, "write", full)
        record.save("a", {"n": 2}, said.append)
        bench.clock.run_until_idle()
    assert said == ["state: can not be written: no space left on device"]
    assert record.get("a") == {"n": 1}
    record.save("b", {"n": 3}, said.append)
    bench.clock.run_until_idle()
    assert bench.again().records.of(NAA).get("a") == {"n": 1}


def test_a_damaged_record_is_named(bench: Bench) -> None:
    bench.records.of(NAA).save("a", {"n": 1}, lambda _: None)
    bench.clock.run_until_idle()
    (file,) = bench.state.path.glob("unit-*.json")
    file.write_bytes(file.read_bytes().replace(b'"n": 1', b'"n": 2'))
    with pytest.raises(StateError, match=f"{file.name}: damaged"):
        bench.records.of(NAA)


def test_a_unit_that_is_no_more_leaves_no_record(bench: Bench) -> None:
    record = bench.records.of(NAA)
    for number in range(2):
        record.save("a", {"n": number}, lambda _: None)
    bench.clock.run_until_idle()
    bench.records.forget(NAA)
    assert list(bench.state.path.glob("unit-*")) == []
    assert bench.again().records.of(NAA).get("a") is None
