import math
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon import metrics
from daemon.host_history import HostStatistics
from daemon.statistics import (
    ArrayStatistics,
    DeviceStatistics,
    ExternalUnitStatistics,
    LoginStatistics,
    PairStatistics,
    PathStatistics,
    Statistics,
    UnitStatistics,
)
from daemon.traffic import Latency
from scsi.counters import LATENCY_BOUNDS_S, Latencies

HOSTILE = (
    'a"b',
    "a\\b",
    "a\nannex_pair_state 1",
    "\x1b[2Jgone",
    "n" * 65536,
    "\udcff",
    "",
    "{}=,",
    "\x00",
    "ü…",
    "\u2028",
)


def statistics() -> Statistics:
    """Give a bit of everything."""
    latencies = Latencies()
    latencies.add(0.0003, 7)
    latencies.add(99.0, 1)
    latency = Latency(counts=latencies.counts, sum_s=latencies.sum_s)
    unit: dict[str, Any] = {
        "reads": 7, "writes": 2, "others": 1, "read_bytes": 4096, "written_bytes": 512, "busy_s": 0.5, "queue": 3,
        "ready": True, "errors": {"3/11/00": 4, "BUSY": 1}, "read_latency": latency, "write_latency": Latency(),
    }  # fmt: skip
    return Statistics(
        uptime_s=12.5,
        logins=LoginStatistics(
            sessions=1, discovery_sessions=2, accepted=3, refused={"NOT_FOUND": 4}, protocol_faults=5
        ),
        devices={"sdb": DeviceStatistics(ready=False, failed_flushes=2)},
        lus={"disk0": UnitStatistics(**unit)},
        hosts={"iqn.2026-11.io.annex:host": HostStatistics(
            sessions=1, reads=9, errors={"5/24/00": 3}, read_latency=latency,
        )},
        arrays={"old": ArrayStatistics(
            ready=False, units=2, units_ready=1, fences_wanted=2, fences_held=1, errors={"OTHER": 1},
        )},
        external_lus={"old/1": ExternalUnitStatistics(array="old", lun=1, fence_wanted=True, fenced=False, **unit)},
        paths={"old": PathStatistics(
            array="old", portal="192.0.2.9:3260", up=True, logins=2, failures=1, errors={"B/4B/06": 2},
        )},
        pairs={"1": PairStatistics(
            state="COPY", fence_level="data", fence_held=True, blocks=1000, out_of_sync_blocks=10, blocked=False,
            copied_blocks=70, compared_blocks=30, errors={"3/0C/00": 1}, direction="primary → secondary",
            in_sync_percent=99, doing="copying", rate_bytes=5e6, seconds_left=1, stands_back=True,
        )},
        acquisitions=1,
    )  # fmt: skip


def values(exposition: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read an exposition as Prometheus does; a series that is there twice is an error."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def value(exposition: bytes, name: str, **labels: str) -> float:
    return values(exposition)[name, frozenset(labels.items())]


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("annex_uptime_seconds", {}, 12.5),
        ("annex_logins_total", {}, 3),
        ("annex_logins_refused_total", {"status": "not_found"}, 4),
        ("annex_lu_operations_total", {"lu": "disk0", "operation": "read"}, 7),
        ("annex_lu_bytes_total", {"lu": "disk0", "operation": "write"}, 512),
        ("annex_lu_errors_total", {"lu": "disk0", "sense": "3/11/00"}, 4),
        ("annex_lu_queue", {"lu": "disk0"}, 3),
        ("annex_lu_latency_seconds_count", {"lu": "disk0", "operation": "read"}, 8),
        ("annex_lu_latency_seconds_bucket", {"lu": "disk0", "operation": "read", "le": "0.0005"}, 7),
        ("annex_lu_latency_seconds_bucket", {"lu": "disk0", "operation": "read", "le": "0.0002"}, 0),
        ("annex_lu_latency_seconds_bucket", {"lu": "disk0", "operation": "read", "le": "+Inf"}, 8),
        ("annex_host_operations_total", {"host": "iqn.2026-11.io.annex:host", "operation": "read"}, 9),
        ("annex_host_errors_total", {"host": "iqn.2026-11.io.annex:host", "sense": "5/24/00"}, 3),
        ("annex_host_latency_seconds_count", {"host": "iqn.2026-11.io.annex:host", "operation": "read"}, 8),
        ("annex_device_ready", {"device": "sdb"}, 0),
        ("annex_device_failed_flushes_total", {"device": "sdb"}, 2),
        ("annex_array_fences_wanted", {"array": "old"}, 2),
        ("annex_array_fences_held", {"array": "old"}, 1),
        ("annex_path_errors_total", {"array": "old", "portal": "192.0.2.9:3260", "sense": "B/4B/06"}, 2),
        ("annex_pair_copied_blocks_total", {"pair": "1"}, 70),
        ("annex_pair_rate_bytes", {"pair": "1"}, 5e6),
        ("annex_pair_stands_back", {"pair": "1"}, 1),
        ("annex_pair_compared_blocks_total", {"pair": "1"}, 30),
        ("annex_array_ready", {"array": "old"}, 0),
        ("annex_external_lu_fence_wanted", {"array": "old", "lun": "1"}, 1),
        ("annex_external_lu_fence_held", {"array": "old", "lun": "1"}, 0),
        ("annex_path_up", {"array": "old", "portal": "192.0.2.9:3260"}, 1),
        ("annex_pair_state", {"pair": "1", "state": "COPY"}, 1),
        ("annex_pair_state", {"pair": "1", "state": "PSUE"}, 0),
        ("annex_pair_out_of_sync_blocks", {"pair": "1"}, 10),
    ],
)
def test_every_kind_of_number_is_exposed(name: str, labels: dict[str, str], expected: float) -> None:
    assert value(metrics.text(statistics()), name, **labels) == expected


def test_every_metric_has_words_and_a_sample_once_there_is_something() -> None:
    families = list(text_string_to_metric_families(metrics.text(statistics()).decode()))
    assert len(families) == len(metrics.FAMILIES)
    assert all(family.documentation and family.samples for family in families)


def test_the_sum_of_a_histogram_is_what_was_added() -> None:
    total = value(metrics.text(statistics()), "annex_lu_latency_seconds_sum", lu="disk0", operation="read")
    assert math.isclose(total, 7 * 0.0003 + 99.0)


def test_bounds_are_in_order_and_latencies_fall_below_the_bound_that_they_reach() -> None:
    assert list(LATENCY_BOUNDS_S) == sorted(set(LATENCY_BOUNDS_S))
    latencies = Latencies()
    for bound in LATENCY_BOUNDS_S:
        latencies.add(bound, 1)
    assert latencies.counts == [1] * len(LATENCY_BOUNDS_S) + [0]


def test_hostile_names_are_one_series_each_and_break_no_line() -> None:
    what = statistics()
    what.hosts = {name: HostStatistics(reads=index) for index, name in enumerate(HOSTILE)}
    exposition = metrics.text(what)
    found = {
        dict(labels)["host"]: count
        for (name, labels), count in values(exposition).items()
        if name == "annex_host_operations_total" and ("operation", "read") in labels
    }
    assert sorted(found.values()) == list(range(len(HOSTILE)))
    assert all(len(shown) <= 255 and shown.isprintable() for shown in found)
    assert all(
        line.startswith(("annex_", "# HELP annex_", "# TYPE annex_")) for line in exposition.decode().splitlines()
    )


def test_long_names_that_begin_alike_stay_different() -> None:
    assert metrics.label("n" * 300 + "1") != metrics.label("n" * 300 + "2")
