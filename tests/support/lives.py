"""Many simulated lives, on every processor."""

from __future__ import annotations

import logging
import multiprocessing
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.support.pair_simulation import Simulation
from tests.support.session_simulation import SessionSimulation

BATCH = 10


def run_lives(seeds: Iterable[int], *, sessions: bool = False, **options: bool) -> list[str]:
    """Run the life of each seed, with `sessions` over real ones; give what went wrong, with the seed."""
    kind = SessionSimulation if sessions else Simulation
    wanted = list(seeds)
    batches = [wanted[at : at + BATCH] for at in range(0, len(wanted), BATCH)]
    # Not forked: the tests' own process may have threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=_be_quiet) as pool:
        return [wrong for some in pool.map(partial(_run, kind, options), batches) for wrong in some]


def _be_quiet() -> None:
    logging.getLogger("backends").setLevel(logging.CRITICAL)


def _run(kind: type[Simulation], options: dict[str, bool], seeds: list[int]) -> list[str]:
    wrong = []
    for seed in seeds:
        try:
            kind(seed, **options).run()
        except Exception:  # noqa: BLE001 - whatever it is, it is told with its seed
            wrong.append(f"seed {seed} of {kind.__name__}, {options}:\n{traceback.format_exc()}")
    return wrong
