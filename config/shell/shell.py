"""The shell: lines in, commands run at nodes, one answer each."""

from __future__ import annotations

import os
import readline
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from configshell_fb import ConfigNode, ConfigShell

from config.errors import ConfigError
from config.shell import client
from config.shell.errors import ScriptError, Usage
from config.shell.node import Node, natural_order
from config.shell.root import RootNode
from config.shell.terminal import Cell, Terminal
from config.shell.words import number, parse, split

MAX_HISTORY = 1000
MAX_WIDTH = 110
SECRET_KEYS = ("password=", "secret=")


class Shell(ConfigShell):  # type: ignore[misc] # configshell-fb has no types
    """The tree of a running annexd, and where in it the admin is.

    Attributes:
        api: the running annexd.
        terminal: who reads.
        typed: what is being completed.
    """

    def __init__(self, api: client.Client, terminal: Terminal) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses old names of pyparsing
            super().__init__()  # no folder: configshell would keep pickles there
        self.prefs["color_mode"] = terminal.console.is_terminal and not terminal.console.no_color
        # Its log of each step costs more than the step.
        self.prefs["loglevel_file"] = self.prefs["loglevel_console"] = "critical"
        self.api = api
        self.terminal = terminal
        self.typed = ""
        self._answers: dict[str, Any] = {}
        RootNode(self)

    segment = staticmethod(client.segment)

    def fetch(self, url: str) -> Any:
        """Give annexd's answer to a GET, the same until the next line."""
        if url not in self._answers:
            self._answers[url] = self.api.get(url)
        return self._answers[url]

    def forget(self) -> None:
        """Ask annexd anew from now on."""
        self._answers.clear()

    def find(self, path: str, start: Node | None = None) -> Node:
        """Give the node at a path.

        Raises:
            Usage: there is none.
        """
        try:
            node: Node = (start or self._current_node).get_node(path)
        except ValueError as error:
            remedy = "what targetcli has in /backstores is in /devices" if "backstores" in path else ""
            raise Usage("path", str(error), remedy) from None
        return node

    def run_words(self, words: Sequence[str]) -> None:
        """Run one command.

        Raises:
            ConfigError: it can not be run, or went wrong; `errors.exit_code` gives the code.
        """
        self.forget()
        command = parse(words)
        if command is None:
            return
        path, every = command.path.removesuffix("*"), command.path.endswith("*")
        start = self.find(path or ".")
        result = None
        for node in sorted(start.children, key=natural_order) if every else [start]:
            at = node
            if command.name not in node.list_commands() and command.name in self._root_node.list_commands():
                at = self._root_node  # status, saveconfig and so on are the same everywhere
            result = at.execute(command.name, command.values, command.keywords)
        if isinstance(result, ConfigNode):
            self._current_node = result
        elif result == "EXIT":
            self._exit = True

    def run_script(self, lines: Iterable[str]) -> None:
        """Run lines until one fails.

        Raises:
            ScriptError: one failed; none after it was run.
        """
        for place, line in enumerate(lines, 1):
            try:
                self.run_words(split(line))
            except ConfigError as error:
                raise ScriptError(place, error) from error
            if self._exit:
                return

    def run_interactive(self) -> None:
        """Read lines from the terminal until `exit` or the end."""
        self._read_history()
        readline.parse_and_bind("tab: complete")
        readline.set_completer(self._complete)
        while not self._exit:
            try:
                line = input(self._get_prompt())
                self._keep_out_of_history(line)
                self.run_words(split(line))
            except EOFError:
                self.terminal.say("")
                break
            except KeyboardInterrupt:
                self.terminal.say("")
            except ConfigError as error:
                self.terminal.error(error)
        self._write_history()

    def _complete(self, text: str, state: int) -> str | None:
        if state == 0:
            self.forget()
            self.typed = text.partition("=")[2] or text
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found: str | None = super()._complete(text, state)
        except (ConfigError, AttributeError, LookupError, ValueError):
            return None  # nothing to offer; the command itself will say why
        return found

    # The tree

    def show_tree(self, node: Node, depth: str) -> None:
        """Show a node and what is under it."""
        levels = number("depth", depth) or 99
        if self.terminal.as_json:
            self.terminal.document(_document(node, levels))
            return
        for cells in _tree(node, levels, self.terminal.console.width):
            self.terminal.line(*cells)

    # The history: in the user's own state folder if that can be, and without secrets

    def _history_file(self) -> Path:
        base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return Path(base).expanduser() / "annex" / "annexcli-history"

    def _read_history(self) -> None:
        readline.set_auto_history(True)
        with suppress(OSError, RuntimeError):
            readline.read_history_file(self._history_file())

    def _write_history(self) -> None:
        with suppress(OSError, RuntimeError):
            file = self._history_file()
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.touch(mode=0o600)
            readline.set_history_length(MAX_HISTORY)
            readline.write_history_file(file)

    def _keep_out_of_history(self, line: str) -> None:
        last = readline.get_current_history_length()
        if any(key in line for key in SECRET_KEYS) and last:
            readline.remove_history_item(last - 1)


def _document(node: Node, levels: int) -> dict[str, Any]:
    words, well = node.summary()
    document: dict[str, Any] = {"path": node.path, "summary": words, "well": well}
    if levels > 0:
        children = sorted(node.children, key=natural_order)
        document["children"] = [_document(child, levels - 1) for child in children]
    return document


def _tree(node: Node, levels: int, width: int, margin: str = "", below: str = "  ") -> Iterator[tuple[Cell, ...]]:
    """Give the lines of a tree as targetcli draws it."""
    words, well = node.summary()
    name = "/" if node.is_root() else node.name
    dots = "." * max(3, min(width, MAX_WIDTH) - len(margin) - len(name) - len(words) - 8)
    style = {True: "green", False: "bold red", None: ""}[well]
    yield (f"{margin}o- ", ""), (name, "bold"), (f" {dots} [", ""), (words or "…", style), ("]", "")
    children = sorted(node.children, key=natural_order) if levels > 0 else []
    for child in children:
        line = "  " if child is children[-1] else "| "
        yield from _tree(child, levels - 1, width, below, below + line)
