"""The texts and the code know the same commands and parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from config.shell import texts
from config.shell.node import Node
from config.shell.root import RootNode
from config.shell.words import parse, split


def classes(base: type[Node] = Node) -> Iterator[type[Node]]:
    for each in base.__subclasses__():
        yield each
        yield from classes(each)


CLASSES: dict[str, type[Node]] = {each.__dict__["kind"]: each for each in classes() if "kind" in each.__dict__}
COMMANDS = [(kind, name) for kind in texts.NODES for name in texts.commands(kind)]


def test_every_kind_of_node_has_its_text_and_its_class() -> None:
    assert RootNode in CLASSES.values()
    assert CLASSES.keys() == texts.NODES.keys()


@pytest.mark.parametrize("kind", texts.NODES)
def test_every_method_is_a_command_with_a_text(kind: str) -> None:
    methods = {name.removeprefix("ui_command_") for name in dir(CLASSES[kind]) if name.startswith("ui_command_")}
    assert methods - {"bookmarks", "method_prefix", "set"} <= set(texts.commands(kind))
    assert set(texts.commands(kind)) <= methods


@pytest.mark.parametrize(("kind", "name"), COMMANDS)
def test_every_parameter_is_explained(kind: str, name: str) -> None:
    text = texts.command(kind, name)
    parameters = inspect.signature(getattr(CLASSES[kind], f"ui_command_{name}")).parameters.values()
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    named = {each.name for each in parameters if each.kind in {positional, keyword}} - {"self"}
    free = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    assert named <= set(text.parameters)
    assert free or set(text.parameters) <= named


@pytest.mark.parametrize(("kind", "name"), COMMANDS)
def test_every_example_is_a_call_of_its_command(kind: str, name: str) -> None:
    method: Any = getattr(CLASSES[kind], f"ui_command_{name}")
    for example in texts.command(kind, name).examples:
        command = parse(split(example))
        assert command is not None
        assert command.name == name
        inspect.signature(method).bind(None, *command.values, **command.keywords)


@pytest.mark.parametrize("kind", texts.NODES)
def test_help_fits_a_terminal(kind: str) -> None:
    for topic in ("", *texts.commands(kind)):
        assert [line for line in texts.help_lines(kind, topic) if len(line) > 132] == []


def test_topics_are_all_commands_once() -> None:
    seen = [(topic.path, topic.command) for topic in texts.topics()]
    assert len(seen) == len(set(seen))
    assert ("/pairs", "create") in seen
