"""Make the completion for bash: `python scripts/completion.py build/completion`, one file per program.

They are made from the programs' parsers, so that what the shell offers is what the program takes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import shtab

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from config.host import main as host_main  # noqa: E402
from daemon import main as daemon_main  # noqa: E402
from scripts.man import parsers  # noqa: E402

PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "annexd": daemon_main.parser,
    "annexhost": host_main.parser,
}

# What an argument is, by its name in the help text. LU: most often a disk, and what follows iscsi:// nobody knows here.
KINDS = {
    "FILE": shtab.FILE,
    "PATH": shtab.FILE,
    "SOCKET": shtab.FILE,
    "LU": shtab.FILE,
    "NAA|LUN|LU": shtab.FILE,
    "DIR": shtab.DIRECTORY,
}


def completion(program: str) -> str:
    """Give the bash completion of a program."""
    parser = PARSERS[program]()
    for each in parsers(parser):
        for action in each._actions:
            if action.metavar in KINDS:
                action.complete = KINDS[action.metavar]  # type: ignore[attr-defined]
    return shtab.complete(parser, shell="bash")  # noqa: S604 - it runs none


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for program in PARSERS:
        (folder / program).write_text(completion(program), encoding="utf-8")


if __name__ == "__main__":
    main()
