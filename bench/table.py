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


def columns(*sides: str, ratio: str) -> str:
    """Head a table of several sides, each with its IOPS and the processor time of its target."""
    names = "".join(f"{side:>20}" for side in sides)
    units = f"{'IOPS':>13}{'µs/IO':>7}" * len(sides)
    return f"{'':<26}{names}\n{'':<26}{units}{ratio:>16}"


def row(load: Load, sides: list[list[Figure]], ratios: list[float]) -> str:
    """Give the medians of several sides, and the median of a ratio run by run."""
    cells = "".join(
        f"{median(figure.iops for figure in side):>13,.0f}{median(figure.cpu_us for figure in side):>7.1f}"
        for side in sides
    )
    return f"{load.title:<26}{cells}{median(ratios):>15.2f}×"


def rates(first: str, ones: list[float], second: str, others: list[float]) -> str:
    """Compare MB/s by the medians, and by the ratio run by run."""
    ratio = median(other / one for one, other in zip(ones, others, strict=True))
    return f"{first} {median(ones):,.0f} MB/s, {second} {median(others):,.0f} MB/s: {ratio:.2f}×"


def spread(figures: list[Figure]) -> float:
    """Tell how far the runs of one side lie apart: largest by smallest."""
    return max(figure.iops for figure in figures) / min(figure.iops for figure in figures)


def _side(load: Load, figures: list[Figure]) -> str:
    iops = median(figure.iops for figure in figures)
    cpu_us = median(figure.cpu_us for figure in figures)
    return f"{iops:>9,.0f}{iops * load.size_bytes / 1e6:>7,.0f}{cpu_us:>7.1f}"
