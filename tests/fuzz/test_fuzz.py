"""Every input that the fuzzer keeps has a right outcome, and half a minute of looking for more finds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).with_name("corpus")
SECONDS_EACH = 6


def inputs(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_input_that_was_kept_has_a_right_outcome(name: str) -> None:
    target = TARGETS[name]
    outcomes = {target.run(data) for data in inputs(name)}
    assert outcomes <= target.outcomes
    assert outcomes >= target.outcomes - {"nothing"}, "and there is one for each"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_few_seconds_of_fuzzing_find_nothing(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, "--seconds", str(SECONDS_EACH)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done " in done.stderr, done.stderr[-4000:]
