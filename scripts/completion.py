"""Make the completion for bash: `python scripts/completion.py build/completion`, one file per program.

They are made from the programs' parsers, so that what the shell offers is what the program takes. annexcli is asked
itself, because it knows the names of what the running annexd has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import shtab

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from config.host import main as host_main
from config.shell import main as shell_main
from daemon import main as daemon_main
from scripts.man import parsers

PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "annexcli": shell_main.parser,
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


# Names have colons and portals have brackets in them, at which bash breaks words; so the line is read as a whole, and
# what stands before the last break is taken off again.
ANNEXCLI = r"""_annexcli() {
    local line=${COMP_LINE:0:COMP_POINT} words partial
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    partial=${words[-1]}
    COMPREPLY=()
    case ${words[-2]} in
    FILE_OPTIONS)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$partial")
        return
        ;;
    esac
    mapfile -t COMPREPLY < <("${words[0]}" OFFER "${words[@]:1}" 2>/dev/null)
    if [[ $partial == -* && ${#COMPREPLY[@]} -eq 0 ]]; then
        mapfile -t COMPREPLY < <(compgen -W "OPTIONS" -- "$partial")
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=] ]] && compopt -o nospace 2>/dev/null
    local before=${partial%"${partial##*[:=]}"}
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -F _annexcli annexcli
"""


def completion(program: str) -> str:
    """Give the bash completion of a program."""
    if program == "annexcli":
        return _completion_of_annexcli()
    parser = PARSERS[program]()
    for each in parsers(parser):
        for action in each._actions:
            if action.metavar in KINDS:
                action.complete = KINDS[action.metavar]  # type: ignore[attr-defined] # where shtab looks for it
    return shtab.complete(parser, shell="bash")  # noqa: S604 - it runs none


def _completion_of_annexcli() -> str:
    actions = [action for action in shell_main.parser()._actions if action.option_strings]
    with_file = [option for action in actions if action.metavar in KINDS for option in action.option_strings]
    made = ANNEXCLI.replace("FILE_OPTIONS", " | ".join(with_file)).replace("OFFER", shell_main.OFFER)
    return made.replace("OPTIONS", " ".join(option for action in actions for option in action.option_strings))


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
