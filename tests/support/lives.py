"""Many simulated lives, on every processor."""

from __future__ import annotations

import logging
import multiprocessing
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.support.pair_simulation import Simulation

BATCH = 10


def run_lives(seeds: Iterable[int], **options: bool) -> list[str]:
    """Run the life of each seed; give what went wrong, with the seed."""
    wanted = list(seeds)
    batches = [wanted[at : at + BATCH] for at in range(0, len(wanted), BATCH)]
    # Not forked: the tests' own process may have threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=_be_quiet) as pool:
        return [wrong for some in pool.map(partial(_run, options=options), batches) for wrong in some]


def _be_quiet() -> None:
    logging.getLogger("backends").setLevel(logging.CRITICAL)


def _run(seeds: list[int], options: dict[str, bool]) -> list[str]:
    wrong = []
    for seed in seeds:
        try:
            Simulation(seed, **options).run()
        except Exception:  # noqa: BLE001 - whatever it is, it is told with its seed
            wrong.append(f"seed {seed}, {options}:\n{traceback.format_exc()}")
    return wrong
