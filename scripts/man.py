"""Make the man pages: `python scripts/man.py build/man`; with `--docs`, the tables of docs/configuration.md.

Each program's page is made from its own help texts, and annex.conf(5) from the model and the table of its keys, so none
of them can say something else than the program does. What no help text says lies in docs/man, one file per page, in
the include format of argparse-manpage.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from argparse_manpage.manpage import Manpage

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from config import __version__, descriptions, model
from config.host import main as host_main
from config.shell import main as shell_main
from config.shell import texts
from daemon import main as daemon_main

SECTIONS = ROOT / "docs" / "man"
CONFIGURATION_PAGE = ROOT / "docs" / "configuration.md"
WIDTH = 10_000  # one line: the reader's terminal breaks it
BEGIN, END = "<!-- made by `make docs` from config/descriptions.py -->\n", "<!-- end of what is made -->\n"


class Page(NamedTuple):
    """A man page: its name and section, what it is in a few words, and the parser whose help it holds."""

    name: str
    section: int
    summary: str
    parser: Callable[[], argparse.ArgumentParser]

    @property
    def file(self) -> str:
        """Its file name."""
        return f"{self.name}.{self.section}"


def _no_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog="annex.conf", add_help=False)


PAGES = (
    Page("annexd", 8, "iSCSI target in front of local disks and of external arrays", daemon_main.parser),
    Page("annexcli", 8, "see and change a running annexd", shell_main.parser),
    Page("annexhost", 8, "pair logical units, and read external data, by SCSI commands", host_main.parser),
    Page("annex.conf", 5, "configuration file of annexd", _no_parser),
)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Give a parser and those of all its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


def page(wanted: Page) -> str:
    """Give a man page, in the language of man(7)."""
    parser = wanted.parser()
    _prepare(parser)
    made = Manpage(
        parser,
        format="single-commands-section",
        _data={
            "project_name": "annex",
            "version": __version__,
            "description": wanted.summary,
            "manual_section": str(wanted.section),
            "manual_title": "annex",
            "include": str(SECTIONS / f"{wanted.file}.man"),
        },
    )
    if wanted.name == "annexcli":
        made.add_section("tree", ">", "\n".join(_tree_in_roff()))
        made.add_section("commands", ">", "\n".join(_commands_in_roff()))
    if wanted.name == "annex.conf":
        made.add_section("keys", ">", "\n".join(_keys_in_roff()))
        made.add_section("examples", ">", "\n".join([".nf", _roff_verbatim(_example()), ".fi"]))
    return str(made)


def _prepare(parser: argparse.ArgumentParser) -> None:
    """Leave out what is said in a section of its own, or twice; and let nothing depend on a terminal's width."""
    parser.description = parser.epilog = None
    for each in parsers(parser):
        each.formatter_class = partial(argparse.HelpFormatter, width=WIDTH)
        for action in each._actions:
            if isinstance(action, argparse._SubParsersAction):
                helps = {choice.dest: choice.help for choice in action._choices_actions}
                for name, command in action.choices.items():
                    if command.description == helps.get(name):
                        command.description = None


def configuration_page() -> str:
    """Give docs/configuration.md with the tables that it has to hold."""
    before, rest = CONFIGURATION_PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    return before + BEGIN + "\n" + "\n".join(_keys_in_markdown()) + "\n" + END + after


def _introduction(entry: type[model.Entry]) -> str:
    """Give the first paragraph of the entry's docstring."""
    return " ".join((inspect.getdoc(entry) or "").split("\n\n")[0].split())


def _rows(entry: type[model.Entry]) -> Iterator[tuple[str, str, str]]:
    """Give key, default and meaning of each key of an entry."""
    for field in msgspec.structs.fields(entry):
        yield field.name, descriptions.default(field), descriptions.DESCRIPTIONS[entry][field.name]


def _keys_in_markdown() -> Iterator[str]:
    for entry, place in descriptions.PLACES.items():
        places = ", ".join(f"`{one}`" if one != "the file" else one for one in place.split(", "))
        yield f"### {places[0].upper()}{places[1:]}\n"
        yield f"{_introduction(entry)}\n"
        yield "| key | default | meaning |\n|---|---|---|"
        for key, default, meaning in _rows(entry):
            shown = default if default in {"", "required"} else f"`{default}`"
            yield f"| `{key}` | {shown} | {meaning} |"
        yield ""


def _keys_in_roff() -> Iterator[str]:
    for entry, place in descriptions.PLACES.items():
        yield f".SS {_roff(place)}"
        yield _roff(_introduction(entry))
        for key, default, meaning in _rows(entry):
            yield ".TP"
            yield f"\\fB{_roff(key)}\\fR" + (f" ({_roff(default)})" if default else "")
            yield _roff(meaning)


def _tree_in_roff() -> Iterator[str]:
    for line in texts.INTRODUCTION:
        yield from [".RS", _roff(line.strip()), ".RE"] if line.startswith(" ") else [_roff(line)]
    for path, node in texts.NODES.items():
        yield ".TP"
        yield f"\\fB{_roff(path)}\\fR"
        yield _roff(node.summary)


def _commands_in_roff() -> Iterator[str]:
    heading = None
    for path, name, text in texts.topics():
        if path != heading:
            yield f".SS {_roff(path or 'at every node')}"
            heading = path
        yield ".TP"
        yield f"\\fB{_roff(name)}\\fR {_roff(text.syntax)}".rstrip()
        yield _roff(text.summary)
        yield ".RS"
        for key, meaning in text.parameters.items():
            yield ".TP"
            yield f"\\fB{_roff(key)}\\fR"
            yield _roff(meaning) or "\\&"
        if text.examples:
            yield ".PP"
            yield ".nf"
            yield from map(_roff_verbatim, text.examples)
            yield ".fi"
        yield ".RE"


def _example() -> str:
    """Give the first JSON of docs/configuration.md, which a test reads as a configuration."""
    found = re.search(r"^```json\n(.*?)^```", CONFIGURATION_PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def _roff(text: str) -> str:
    """Escape one line; what stands in backticks becomes bold."""
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fR", _roff_verbatim(text))


def _roff_verbatim(text: str) -> str:
    escaped = text.replace("\\", "\\(rs").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", type=Path, nargs="?", help="where the pages go")
    what.add_argument("--docs", action="store_true", help="write the tables of docs/configuration.md again")
    options = parser.parse_args()
    if options.docs:
        CONFIGURATION_PAGE.write_text(configuration_page(), encoding="utf-8")
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for wanted in PAGES:
        (options.folder / wanted.file).write_text(page(wanted), encoding="utf-8")


if __name__ == "__main__":
    main()
