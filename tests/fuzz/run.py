"""Let atheris look for inputs that a target has no right outcome for.

    python -m tests.fuzz.run TARGET [--seconds N] [--found DIR]
    python -m tests.fuzz.run TARGET --merge DIR

It begins with the inputs of `corpus/TARGET`. What it finds to be wrong is written to the working directory as
`crash-…`, and shown: it belongs into a test with a name. Inputs that reach new code go to DIR; `--merge` takes those of
them into the corpus that reach more than what is there.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["scsi", "backends"]):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
MOST_INPUT_BYTES = 4096
MOST_MEMORY_MIB = 1024
MOST_SECONDS_AN_INPUT = 10


def main() -> None:
    """Read the command line, and fuzz; the exit status is 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--found", type=Path, metavar="DIR", help="where inputs go that reach new code")
    parser.add_argument("--merge", type=Path, metavar="DIR", help="take what reaches more into the corpus")
    options, of_merge = parser.parse_known_args()
    target = TARGETS[options.target]

    def one_input(data: bytes) -> None:
        outcome = target.run(data)
        if outcome not in target.outcomes:
            raise AssertionError(f"{options.target}: {outcome}")

    corpus = CORPUS / options.target
    flags = [
        f"-max_len={MOST_INPUT_BYTES}",
        f"-rss_limit_mb={MOST_MEMORY_MIB}",
        f"-timeout={MOST_SECONDS_AN_INPUT}",
    ]
    with tempfile.TemporaryDirectory() as nowhere:
        program = sys.argv[0]
        if of_merge:
            flags = of_merge
        elif options.merge:
            program = _program(Path(nowhere), options.target)
            flags += ["-merge=1", str(corpus), str(options.merge)]
        else:
            found = options.found or Path(nowhere)
            found.mkdir(parents=True, exist_ok=True)
            flags += [f"-max_total_time={options.seconds}", "-seed=1", str(found), str(corpus)]
        atheris.Setup([program, *flags], one_input)
        atheris.Fuzz()


def _program(folder: Path, target: str) -> str:
    """Make what a merge starts again and again: it does its work in processes of their own."""
    program = folder / "fuzz"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tests.fuzz.run {target} "$@"\n')
    program.chmod(0o700)
    return str(program)


if __name__ == "__main__":
    main()
