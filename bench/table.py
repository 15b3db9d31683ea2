"""The figures of several runs as lines for a person."""

from __future__ import annotations

from statistics import median

from bench.loads import Figure, Load

HEADER = f"{'':<32}{'tgt':>22}{'annex':>26}{'':>9}"
COLUMNS = f"{'':<32}{'IOPS':>9}{'MB/s':>7}{'µs/IO':>7}{'IOPS':>12}{'MB/s':>7}{'µs/IO':>7}{'annex/tgt':>12}"


def line(load: Load, first: list[Figure], second: list[Figure]) -> str:
    """Compare two sides by the medians of their runs.

    The ratio is the median of the ratios run by run: two runs that follow each other see the same machine, whatever
    else it does, and the first and the last of a table may not.
    """
    ratio = median(other.iops / one.iops for one, other in zip(first, second, strict=True))
    return f"{load.title:<32}{_side(load, first):>23}{_side(load, second):>26}{ratio:>11.2f}×"


def spread(figures: list[Figure]) -> float:
    """Tell how far the runs of one side lie apart: largest by smallest."""
    return max(figure.iops for figure in figures) / min(figure.iops for figure in figures)


def _side(load: Load, figures: list[Figure]) -> str:
    iops = median(figure.iops for figure in figures)
    cpu_us = median(figure.cpu_us for figure in figures)
    return f"{iops:>9,.0f}{iops * load.size_bytes / 1e6:>7,.0f}{cpu_us:>7.1f}"
