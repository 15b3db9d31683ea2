"""What can come next on a half-typed command line of annexcli: for the completion of the user's own shell.

Names are those that the running annexd has. Without one there is still the part of the tree that is always there.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from config.errors import ConfigError
from config.shell import texts
from config.shell.node import Node


def offers(shell: Any, words: Sequence[str], partial: str) -> list[str]:
    """Give what `partial` can become after `words`, options left out.

    What is not finished by it ends with "/" or "=".
    """
    try:
        return [offer for offer in _offers(shell, list(words), partial) if offer.startswith(partial)]
    except ConfigError:
        return []  # no annexd, or no such node: the command itself will say so


def _offers(shell: Any, words: list[str], partial: str) -> Iterator[str]:
    path = words.pop(0) if words and words[0].startswith("/") else ""
    if not words and not path and partial.startswith("/"):
        yield from _paths(shell, partial)
        return
    node: Node = shell.find(path or "/")
    if not words:
        yield from sorted({*node.list_commands(), *texts.commands("/")})
        if not path:
            yield from _paths(shell, "/")
        return
    name, *given = words
    if name not in node.list_commands():
        node = shell.find("/")
    if name in node.list_commands():
        yield from _values(node, name, given, partial)


def _paths(shell: Any, partial: str) -> Iterator[str]:
    """Give the nodes beside the one that is being typed."""
    folder = partial[: partial.rindex("/") + 1]
    for child in shell.find(folder.rstrip("/") or "/").children:
        has_more = any(kind.startswith(f"{child.kind}/") for kind in texts.NODES)
        yield f"{folder}{child.name}" + ("/" if has_more else "")


def _values(node: Node, command: str, given: list[str], partial: str) -> Iterator[str]:
    text = texts.command(node.kind, command)
    key, equals, _ = partial.removeprefix("--").partition("=")
    if equals:
        yield from (f"{key}={value}" for value in node.values(command, key, {}))
        return
    parameters = inspect.signature(node.get_command_method(command)).parameters.values()
    places = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    every = [parameter.name for parameter in parameters if parameter.kind is parameter.VAR_POSITIONAL]
    count = sum("=" not in value and not value.startswith("--") for value in given)
    for place in (places[count:] or every)[:1]:
        yield from (value for value in map(str, node.values(command, place, {})) if value not in given)
    used = {value.removeprefix("--").partition("=")[0] for value in given} | set(places[: count + 1])
    for key in text.parameters:
        if key not in used:
            yield f"{key}="
            if key in texts.FLAGS:
                yield f"--{key}"
