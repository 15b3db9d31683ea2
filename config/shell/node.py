"""What every node of the shell's tree does: it has what annexd has at the moment, and the commands of `texts`.

A node asks annexd when it is looked at, at most once for each command line: `Shell.fetch` remembers until the next.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from configshell_fb import ConfigNode

from config.shell import texts
from config.shell.errors import Usage
from config.shell.sizes import size_words
from config.shell.terminal import printable
from config.shell.words import truth

Row = dict[str, Any]
Summary = tuple[str, bool | None]  # words, and whether all is well; None when that is not a question


class Node(ConfigNode):  # type: ignore[misc] # configshell-fb has no types
    """A node that is always there.

    Attributes:
        kind: its key in `texts.NODES`.
        url: where it is in the API.
    """

    kind: ClassVar[str] = "/"

    def __init__(self, name: str, parent: Node | None, url: str = "", shell: Any = None) -> None:
        super().__init__(name, parent, shell)
        self.url = url
        self.build()

    def build(self) -> None:
        """Make the children that are always there."""

    # The tree

    @property
    def children(self) -> Iterable[Node]:
        """The nodes under this one."""
        nodes: Iterable[Node] = self._children
        return nodes

    def get_child(self, name: str) -> Node:
        """Give a child; the class below asks annexd for it."""
        for child in self.children:
            if child.name == name:
                return child
        raise ValueError(f"there is no {self.path.rstrip('/')}/{name[:250]}")

    def prompt_msg(self) -> str:
        """What stands before the path in the prompt."""
        return ""

    # What configshell asks for, answered from the table of texts

    def list_commands(self) -> tuple[str, ...]:
        return tuple(sorted(texts.commands(self.kind)))

    def get_completion_method(self, command: str) -> Callable[[dict[str, str], str, str], list[str]]:
        def complete(given: dict[str, str], text: str, parameter: str) -> list[str]:
            found = [value for value in self.values(command, parameter, given) if value.startswith(text)]
            return [found[0] + " "] if len(found) == 1 and not found[0].endswith(("=", "/", ",")) else found

        return complete

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        """Give the values that a parameter can have, as far as they are known."""
        del given
        if parameter == "topic":
            return self.list_commands()
        if parameter in texts.FLAGS:
            return ("true", "false")
        text = texts.command(self.kind, command)
        return [f"{key}=" for key in text.parameters] if parameter == "*" else text.choices.get(parameter, ())

    def execute(self, command: str, values: Sequence[str], keywords: dict[str, str]) -> Any:
        """Run a command of this node.

        Raises:
            Usage: there is no such command, or it takes other parameters.
        """
        if command not in self.list_commands():
            known = ", ".join(self.list_commands())
            raise Usage(self.path, f"has no command {command[:80]!r}", f"it has {known}")
        method = self.get_command_method(command)
        try:
            bound = inspect.signature(method).bind(*values, **keywords)
        except TypeError as error:
            syntax = texts.command(self.kind, command).syntax
            raise Usage(f"{self.path} {command}", _in_words(str(error)), f"usage: {command} {syntax}".strip()) from None
        return method(*bound.args, **bound.kwargs)

    # Help for the classes below

    def fetch(self, url: str = "") -> Any:
        """Give what annexd says at a path of the API, or at that of this node; asked once for each command line."""
        return self.shell.fetch(url or self.url)

    def say_done(self, answer: Any, otherwise: str) -> None:
        """Say what a change did."""
        self.shell.forget()
        terminal = self.shell.terminal
        if terminal.as_json:
            terminal.document(answer)
            return
        changes = answer.get("changes") if isinstance(answer, dict) else None
        for change in changes or ():
            detail = f": {change['detail']}" if change.get("detail") else ""
            terminal.say(f"{change.get('action')} {change.get('path')}{detail}")
        if not changes:
            terminal.say(otherwise)

    def agreed(self, question: str, yes: str) -> bool:
        """Tell whether the admin wants what can not be taken back."""
        if truth("yes", yes) or self.shell.terminal.agree(question):
            return True
        self.shell.terminal.say("nothing was changed")
        return False

    # Commands that every node has

    def ui_command_ls(self, path: str = ".", depth: str = "0") -> None:
        self.shell.show_tree(self.shell.find(path, self), depth)

    def ui_command_cd(self, path: str = "/") -> Node:
        node: Node = self.shell.find(path, self)
        return node

    def ui_command_pwd(self) -> None:
        self.shell.terminal.say(self.path)

    def ui_command_help(self, topic: str = "") -> None:
        at = "/" if topic and topic not in self.list_commands() else self.kind
        if topic and topic not in texts.commands(at):
            raise Usage(f"help {topic[:80]}", f"{self.path} has no such command")
        for line in texts.help_lines(at, topic):
            self.shell.terminal.say(line)

    def ui_command_exit(self) -> str:
        return "EXIT"

    def ui_command_info(self) -> None:
        document = self.document()
        if self.shell.terminal.as_json:
            self.shell.terminal.document(document)
            return
        for line in facts(document):
            self.shell.terminal.say(line)

    def ui_command_get(self, *keys: str) -> None:
        document = self.document()
        unknown = [key for key in keys if key not in document]
        if unknown:
            raise Usage(f"{self.path} get", f"there is no {unknown[0][:80]!r}", f"it has {', '.join(sorted(document))}")
        wanted = {key: document[key] for key in keys or sorted(document)}
        if self.shell.terminal.as_json:
            self.shell.terminal.document(wanted)
            return
        for key, value in wanted.items():
            self.shell.terminal.say(f"{key}={_value_words(value)}")

    def document(self) -> Row:
        """Give what annexd says about this node."""
        answer = self.fetch()
        return answer if isinstance(answer, dict) else {self.name: answer}


class Collection(Node):
    """Nodes that come and go with what annexd has.

    Attributes:
        key: the field of a row that is its node's name.
        entry: the class of its nodes.
        noun: what one is called.
    """

    key: ClassVar[str] = "name"
    entry: ClassVar[type[Entry]]
    noun: ClassVar[str] = ""

    def rows(self) -> list[Row]:
        """Give what annexd has here."""
        found: list[Row] = self.fetch()
        return found

    @property
    def children(self) -> Iterable[Node]:
        wanted = {printable(row[self.key]): row for row in self.rows()}
        have: dict[str, Entry] = {child.name: child for child in self._children}
        for name in have.keys() - wanted.keys():
            self.remove_child(have.pop(name))
        for name, row in wanted.items():
            if name in have:
                have[name].row = row
            else:
                have[name] = self.entry(self, row)
        return list(have.values())

    def names(self) -> list[str]:
        """Give the names of what is here."""
        return [child.name for child in self.children]

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        if command == "delete" and parameter not in texts.FLAGS | {"*"}:
            return self.names()
        return super().values(command, parameter, given)

    def summary(self) -> Summary:
        children = list(self.children)
        bad = sum(child.summary()[1] is False for child in children)
        return plural(len(children), self.noun) + (f", {bad} not well" if bad else ""), not bad

    def say_created(self, answer: Any, name: str) -> None:
        """Say what a `create` did, and what is not well with what it created."""
        self.say_done(answer, f"created {self.path}/{name}")
        fault = next((row.get("fault") for row in self.rows() if str(row[self.key]) == name), None)
        if fault:
            self.shell.terminal.warn(f"{self.path}/{name}: {fault}")

    def remove(self, name: str, yes: str, question: str) -> None:
        """Delete one, when the admin wants it."""
        node = self.get_named(name)
        if self.agreed(question.format(node.name), yes):
            self.say_done(self.shell.api.delete(node.url), f"deleted {node.path}")

    def get_named(self, name: str) -> Node:
        """Give a child by its name or by its path.

        Raises:
            Usage: it is not there.
        """
        try:
            return self.get_child(name.rstrip("/").rpartition("/")[2])
        except ValueError as error:
            raise Usage(self.path, str(error), f"there are: {', '.join(sorted(self.names())[:20]) or 'none'}") from None

    def document(self) -> Row:
        return {self.name: self.rows()}

    def ui_command_info(self) -> None:
        if self.shell.terminal.as_json:
            self.shell.terminal.document(self.document())
            return
        for child in sorted(self.children, key=natural_order):
            self.shell.terminal.say(f"{child.name}: {child.summary()[0]}")


class Entry(Node):
    """One of a collection; `row` is what annexd last said about it."""

    def __init__(self, parent: Collection, row: Row) -> None:
        self.row = row
        super().__init__(printable(row[parent.key]), parent, f"{parent.url}/{parent.shell.segment(row[parent.key])}")

    def document(self) -> Row:
        return self.row

    def summary(self) -> Summary:
        return summary(self.row, ())

    def change(self, body: Row) -> None:
        """Change some keys of it."""
        if not body:
            raise Usage(
                f"{self.path} set", "nothing to set", f"it takes {', '.join(texts.command(self.kind, 'set').keys())}"
            )
        self.say_done(self.shell.api.patch(self.url, body), f"changed {self.path}")

    def keys_of_set(self, given: dict[str, str]) -> dict[str, str]:
        """Give the keys of a `set` back when they are all known.

        Raises:
            Usage: one is not.
        """
        known = texts.command(self.kind, "set").keys()
        for key in given:
            if key not in known:
                raise Usage(f"{self.path} set", f"there is no {key[:80]!r}", f"it takes {', '.join(known)}")
        return given


def summary(row: Row, facts_first: Iterable[str]) -> Summary:
    """Give facts, state and fault of a row in one line."""
    fault = row.get("fault")
    parts = [*facts_first, str(row.get("state") or ""), str(fault or "")]
    return ", ".join(part for part in parts if part), None if "state" not in row else not fault


def _in_words(complaint: str) -> str:
    """Say what `inspect` says of parameters that do not fit, in the words of the shell."""
    for theirs, ours in (
        ("got an unexpected keyword argument", "there is no parameter"),
        ("missing a required argument:", "it needs the parameter"),
        ("too many positional arguments", "there are too many values"),
        ("multiple values for argument", "there are two values for"),
    ):
        complaint = complaint.replace(theirs, ours)
    return complaint


def natural_order(node: Node) -> tuple[int, int, str]:
    """Sort numbers by their value and before names."""
    return (0, int(node.name), "") if node.name.isascii() and node.name.isdigit() else (1, 0, node.name)


def plural(count: int, noun: str) -> str:
    """Give a count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def facts(document: Any, indent: str = "") -> Iterator[str]:
    """Give the lines that show a document to a person."""
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from facts(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield f"{indent}{key}:"
            for item in value:
                yield f"{indent}  - {_value_words(item)}"
        else:
            yield f"{indent}{key}: {_value_words(value, key)}"


def _value_words(value: Any, key: str = "") -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if key.endswith("_bytes") and isinstance(value, int) and value >= 1024:
        return f"{size_words(value)} ({value} bytes)"
    if isinstance(value, list):
        return ", ".join(_value_words(item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_value_words(item)}" for name, item in value.items())
    return str(value)
