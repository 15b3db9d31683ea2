"""Rates from counters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from config.shell.errors import Usage
from config.shell.terminal import Terminal
from config.shell.watch import rates, watch


class Api:
    def __init__(self, *documents: dict[str, Any]) -> None:
        self.documents = list(documents)

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/v1/statistics"
        return self.documents.pop(0)


def counters(reads: int, **others: Any) -> dict[str, Any]:
    return {
        "reads": reads,
        "writes": 0,
        "read_bytes": reads * 4096,
        "written_bytes": 0,
        "busy_s": 0.0,
        "queue": 0,
    } | others


def test_rates_are_differences_by_time() -> None:
    (row,) = rates({"a": counters(100)}, {"a": counters(300, busy_s=0.4, queue=7)}, 2.0).values()
    assert list(row) == [100.0, 0.0, pytest.approx(0.4096), 0.0, pytest.approx(2.0), 7]


def test_counters_that_began_anew_count_from_zero() -> None:
    (row,) = rates({"a": counters(100)}, {"a": counters(50)}, 1.0).values()
    assert row.read_iops == 50


def test_what_did_nothing_has_no_latency() -> None:
    (row,) = rates({"a": counters(100)}, {"a": counters(100)}, 1.0).values()
    assert row.latency_ms is None


def test_watch_in_a_script_gives_a_document_for_each_look(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 3.0])
    slept: list[float] = []
    api: Any = Api({"lus": {"v": counters(0)}}, {"lus": {"v": counters(10)}}, {"lus": {"v": counters(30)}})
    watch(api, Terminal(as_json=True), "lus", 2, 0.5, sleep=slept.append, now=lambda: next(clock))
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [look["lus"]["v"]["read_iops"] for look in looks] == [10.0, 10.0]
    assert slept == [0.5, 0.5]


def test_watch_shows_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0])
    api: Any = Api({}, {"hosts": {"iqn.x\x1b[2J": counters(12_345)}})
    watch(api, Terminal(), "", 1, 1.0, sleep=lambda _: None, now=lambda: next(clock))
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["host", "read", "IOPS"]
    assert row.split()[:2] == ["iqn.x\\x1b[2J", "12.3k"]


def test_watch_shows_of_a_pair_what_it_is_doing(capsys: pytest.CaptureFixture[str]) -> None:
    pair = counters(
        10, state="COPY", in_sync_percent=37, out_of_sync_blocks=99, doing="copying", rate_bytes=5e6, seconds_left=70
    )
    clock = iter([0.0, 1.0])
    api: Any = Api({}, {"pairs": {"1": pair}})
    watch(api, Terminal(), "pairs", 1, 1.0, sleep=lambda _: None, now=lambda: next(clock))
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[-8:] == ["state", "in", "sync", "blocks", "out", "copy", "MB/s", "left"]
    assert row.split()[-7:] == ["COPY", "37", "%", "99", "5.0", "1", "min"]
    clock = iter([0.0, 1.0])
    api = Api({}, {"pairs": {"1": pair}})
    watch(api, Terminal(as_json=True), "pairs", 1, 1.0, sleep=lambda _: None, now=lambda: next(clock))
    seen = json.loads(capsys.readouterr().out)["pairs"]["1"]
    assert (seen["state"], seen["rate_bytes"], seen["read_iops"]) == ("COPY", 5e6, 10.0)


def test_what_can_not_be_watched_is_refused() -> None:
    api: Any = Api()
    with pytest.raises(Usage):
        watch(api, Terminal(), "colours", 1, 1.0)
