"""The statistics as Prometheus reads them.

Names of hosts, arrays and devices become label values. A host may call itself almost anything, so a value is printable
and of bounded length before it is one, and `daemon.host_history` bounds how many there are.

Spec: Prometheus text exposition format, 0.0.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from config import __version__
from daemon.statistics import DeviceStatistics, Statistics
from daemon.traffic import Latency, Traffic
from scsi.array_commands import PairState

MOST_LABEL_CHARACTERS = 255

Labels = tuple[str, ...]
Sample = tuple[Labels, float | Latency]


class Family(NamedTuple):
    """One metric.

    Attributes:
        name: without `_total`, which counters get.
        make: its type.
        words: what it is.
        labels: their names.
        samples: gives label values and value of each series.
    """

    name: str
    make: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
    words: str
    labels: Labels
    samples: Callable[[Statistics], Iterable[Sample]]


def text(statistics: Statistics) -> bytes:
    """Give the exposition."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(statistics))
    return generate_latest(registry)


def label(value: str) -> str:
    """Give a label value of a name: printable, on one line, of bounded length, and different for different names."""
    shown = value if value.isprintable() else value.encode("unicode_escape").decode()
    if len(shown) > MOST_LABEL_CHARACTERS:
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        shown = f"{shown[: MOST_LABEL_CHARACTERS - 17]}~{digest}"
    return shown


class _Once(Collector):
    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            metric = family.make(family.name, family.words, labels=family.labels)
            for values, value in family.samples(self._statistics):
                labels = [label(part) for part in values]
                if isinstance(value, Latency):
                    assert isinstance(metric, HistogramMetricFamily)
                    metric.add_metric(labels, buckets=_buckets(value), sum_value=value.sum_s)
                else:
                    assert not isinstance(metric, HistogramMetricFamily)
                    metric.add_metric(labels, value)
            yield metric


def _buckets(latency: Latency) -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    total = 0
    counts = latency.counts or [0] * (len(latency.bounds_s) + 1)
    for bound, count in zip((*map(str, latency.bounds_s), "+Inf"), counts, strict=True):
        total += count
        rows.append((bound, total))
    return rows


# --- Where the samples come from --------------------------------------------------------------------------------------

Rows = Callable[[Statistics], Iterable[tuple[Labels, Traffic]]]


def _by_name(group: str) -> Callable[[Statistics], Iterable[tuple[Labels, Traffic]]]:
    def rows(statistics: Statistics) -> Iterator[tuple[Labels, Traffic]]:
        named: Mapping[str, Traffic] = getattr(statistics, group)
        for name, row in named.items():
            yield (name,), row

    return rows


def _external_lus(statistics: Statistics) -> Iterator[tuple[Labels, Traffic]]:
    for row in statistics.external_lus.values():
        yield (row.array, str(row.lun)), row


def _paths(statistics: Statistics) -> Iterator[tuple[Labels, Traffic]]:
    for row in statistics.paths.values():
        yield (row.array, row.portal), row


def _devices(statistics: Statistics) -> Iterator[tuple[Labels, DeviceStatistics]]:
    for name, row in statistics.devices.items():
        yield (name,), row


def _field(rows: Callable[[Statistics], Iterable[tuple[Labels, object]]], name: str) -> Callable[..., Iterator[Sample]]:
    def samples(statistics: Statistics) -> Iterator[Sample]:
        for labels, row in rows(statistics):
            yield labels, float(getattr(row, name))

    return samples


def _split(rows: Rows, **fields: str) -> Callable[[Statistics], Iterator[Sample]]:
    """Give one sample per field, with the field's word as the last label."""

    def samples(statistics: Statistics) -> Iterator[Sample]:
        for labels, row in rows(statistics):
            for word, name in fields.items():
                yield (*labels, word), float(getattr(row, name))

    return samples


def _latencies(rows: Rows) -> Callable[[Statistics], Iterator[Sample]]:
    def samples(statistics: Statistics) -> Iterator[Sample]:
        for labels, row in rows(statistics):
            yield (*labels, "read"), row.read_latency
            yield (*labels, "write"), row.write_latency

    return samples


def _errors(rows: Rows) -> Callable[[Statistics], Iterator[Sample]]:
    def samples(statistics: Statistics) -> Iterator[Sample]:
        for labels, row in rows(statistics):
            for sense, count in row.errors.items():
                yield (*labels, sense), count

    return samples


def _pair_states(statistics: Statistics) -> Iterator[Sample]:
    for number, row in statistics.pairs.items():
        for state in PairState:
            yield (number, state.name), float(row.state == state.name)


def _logins(name: str) -> Callable[[Statistics], Iterator[Sample]]:
    def samples(statistics: Statistics) -> Iterator[Sample]:
        yield (), float(getattr(statistics.logins, name))

    return samples


def _refused(statistics: Statistics) -> Iterator[Sample]:
    for status, count in statistics.logins.refused.items():
        yield (status.lower(),), count


# --- The metrics ------------------------------------------------------------------------------------------------------

_OPERATIONS = {"read": "reads", "write": "writes", "other": "others"}
_BYTES = {"read": "read_bytes", "write": "written_bytes"}


def _traffic(
    noun: str, words: str, labels: Labels, rows: Rows, *, queue: str = "Commands {of} in progress."
) -> list[Family]:
    of = f"of a {words}" if words[0] not in "aeiou" else f"of an {words}"
    return [
        Family(f"annex_{noun}_operations", CounterMetricFamily, f"Commands {of}.", (*labels, "operation"),
               _split(rows, **_OPERATIONS)),
        Family(f"annex_{noun}_bytes", CounterMetricFamily, f"Data read and written {of}.", (*labels, "operation"),
               _split(rows, **_BYTES)),
        Family(f"annex_{noun}_busy_seconds", CounterMetricFamily,
               f"Time that the reads and writes {of} took, all added up; sampled.", labels, _field(rows, "busy_s")),
        Family(f"annex_{noun}_latency_seconds", HistogramMetricFamily, f"Time of a command {of}; sampled.",
               (*labels, "operation"), _latencies(rows)),
        Family(f"annex_{noun}_errors", CounterMetricFamily,
               f"Commands {of} that ended otherwise than well, by sense key/ASC/ASCQ or by status.",
               (*labels, "sense"), _errors(rows)),
        Family(f"annex_{noun}_queue", GaugeMetricFamily, queue.format(of=of), labels, _field(rows, "queue")),
    ]  # fmt: skip


def _unit(noun: str, words: str, labels: Labels, rows: Rows) -> list[Family]:
    return [
        *_traffic(noun, words, labels, rows),
        Family(f"annex_{noun}_ready", GaugeMetricFamily, f"Whether the {words} serves.", labels, _field(rows, "ready")),
    ]


_LUS, _HOSTS, _ARRAYS, _PAIRS = _by_name("lus"), _by_name("hosts"), _by_name("arrays"), _by_name("pairs")

FAMILIES: tuple[Family, ...] = (
    Family("annex_build_info", GaugeMetricFamily, "The version of annexd.", ("version",),
           lambda _: [((__version__,), 1.0)]),
    Family("annex_uptime_seconds", GaugeMetricFamily, "Time since annexd was started.", (),
           lambda statistics: [((), statistics.uptime_s)]),
    Family("annex_sessions", GaugeMetricFamily, "Sessions of hosts.", (), _logins("sessions")),
    Family("annex_discovery_sessions", GaugeMetricFamily, "Discovery sessions.", (), _logins("discovery_sessions")),
    Family("annex_logins", CounterMetricFamily, "Logins that worked.", (), _logins("accepted")),
    Family("annex_logins_refused", CounterMetricFamily, "Logins that were refused, by login status.", ("status",),
           _refused),
    Family("annex_protocol_faults", CounterMetricFamily, "What hosts have done against the protocol.", (),
           _logins("protocol_faults")),
    Family("annex_acquisitions", GaugeMetricFamily, "Reads in two commands that are under way.", (),
           lambda statistics: [((), float(statistics.acquisitions))]),
    Family("annex_device_ready", GaugeMetricFamily, "Whether the local device serves.", ("device",),
           _field(_devices, "ready")),
    Family("annex_device_failed_flushes", CounterMetricFamily, "Flushes of the local device that failed.", ("device",),
           _field(_devices, "failed_flushes")),
    *_unit("lu", "logical unit", ("lu",), _LUS),
    *_traffic("host", "host", ("host",), _HOSTS),
    Family("annex_host_sessions", GaugeMetricFamily, "Sessions of a host.", ("host",), _field(_HOSTS, "sessions")),
    *_traffic("array", "array", ("array",), _ARRAYS),
    Family("annex_array_ready", GaugeMetricFamily, "Whether the array is logged in to and looked at.", ("array",),
           _field(_ARRAYS, "ready")),
    Family("annex_array_lus", GaugeMetricFamily, "LUs that the array has, or should have.", ("array",),
           _field(_ARRAYS, "units")),
    Family("annex_array_lus_ready", GaugeMetricFamily, "LUs of the array that serve.", ("array",),
           _field(_ARRAYS, "units_ready")),
    Family("annex_array_fences_wanted", GaugeMetricFamily, "LUs of the array whose reservation annex has to hold.",
           ("array",), _field(_ARRAYS, "fences_wanted")),
    Family("annex_array_fences_held", GaugeMetricFamily, "Those of them whose reservation annex holds.", ("array",),
           _field(_ARRAYS, "fences_held")),
    *_unit("external_lu", "LU of an array", ("array", "lun"), _external_lus),
    Family("annex_external_lu_fence_wanted", GaugeMetricFamily, "Whether annex has to hold the LU's reservation.",
           ("array", "lun"), _field(_external_lus, "fence_wanted")),
    Family("annex_external_lu_fence_held", GaugeMetricFamily, "Whether annex holds the LU's reservation.",
           ("array", "lun"), _field(_external_lus, "fenced")),
    *_traffic("path", "path to an array", ("array", "portal"), _paths,
              queue="Commands sent to the array, or waiting for its window."),
    Family("annex_path_up", GaugeMetricFamily, "Whether the path to the array has a session.", ("array", "portal"),
           _field(_paths, "up")),
    Family("annex_path_logins", CounterMetricFamily, "Logins to the array that worked.", ("array", "portal"),
           _field(_paths, "logins")),
    Family("annex_path_failures", CounterMetricFamily, "Logins to the array that failed, and sessions that broke.",
           ("array", "portal"), _field(_paths, "failures")),
    *_traffic("pair", "pair's primary", ("pair",), _PAIRS),
    Family("annex_pair_state", GaugeMetricFamily, "1 for the state that the pair is in.", ("pair", "state"),
           _pair_states),
    Family("annex_pair_fence_held", GaugeMetricFamily, "Whether the pair's fences are all held.", ("pair",),
           _field(_PAIRS, "fence_held")),
    Family("annex_pair_blocked", GaugeMetricFamily, "Whether the pair can not be served.", ("pair",),
           _field(_PAIRS, "blocked")),
    Family("annex_pair_blocks", GaugeMetricFamily, "Size of the pair, blocks.", ("pair",), _field(_PAIRS, "blocks")),
    Family("annex_pair_out_of_sync_blocks", GaugeMetricFamily, "Blocks of the pair that are not known to be equal.",
           ("pair",), _field(_PAIRS, "out_of_sync_blocks")),
    Family("annex_pair_copied_blocks", CounterMetricFamily, "Blocks that copies have brought from leg to leg.",
           ("pair",), _field(_PAIRS, "copied_blocks")),
    Family("annex_pair_rate_bytes", GaugeMetricFamily,
           "Bytes a second by which a copy or a comparison gets on; 0 when there is none.", ("pair",),
           _field(_PAIRS, "rate_bytes")),
    Family("annex_pair_stands_back", GaugeMetricFamily,
           "Whether a copy or a comparison is slower than it could be because hosts are busy.", ("pair",),
           _field(_PAIRS, "stands_back")),
    Family("annex_pair_compared_blocks", CounterMetricFamily, "Blocks that were compared on both legs.", ("pair",),
           _field(_PAIRS, "compared_blocks")),
)  # fmt: skip
