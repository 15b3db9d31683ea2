"""What the shell says about itself: each node, its commands, their parameters, and examples.

`help`, the completion of the shell and the manual page annexcli(8) are made from these tables, so none of them can know
a command that the others do not. Paths in capitals stand for names: /devices/NAME.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from config.shell.node_texts import ENTRIES
from config.shell.text import YES, CommandText, NodeText
from config.shell.tpg_texts import TPG

INTRODUCTION = (
    "Each thing that annexd has is a node of a tree. A line is",
    "    [PATH] COMMAND [VALUE…] [KEY=VALUE…]",
    "and the command runs at the path, or where you are. Values stand in the order of the usage, or as KEY=VALUE.",
    "--KEY is KEY=true.",
    "Changes are live at once, and saved. Sizes are such as 512MiB, 10G (binary) or 1TB (decimal).",
)

_COMMON = {
    "ls": CommandText(
        "[PATH] [DEPTH]",
        "Show the tree from here, with states and sizes.",
        {"path": "where to begin", "depth": "how many levels; 0 for all"},
        ("ls", "ls /iscsi 1"),
    ),
    "cd": CommandText(
        "[PATH]", "Go to a node; without a path to the root.", {"path": "where to go"}, ("cd /devices", "cd ..")
    ),
    "pwd": CommandText("", "Show where you are."),
    "help": CommandText(
        "[COMMAND]", "Explain this node, or one of its commands.", {"topic": "a command"}, ("help create",)
    ),
    "info": CommandText("", "Show all that annexd says about this node."),
    "get": CommandText("[KEY…]", "Show some of what info shows, as KEY=VALUE.", {}, ("get state",)),
    "exit": CommandText("", "Leave the shell."),
}

ROOT = NodeText(
    "The whole of what annexd has. Commands of this node can be given anywhere.",
    {
        "status": CommandText("", "Show version, state, counts, and what is not well."),
        "watch": CommandText(
            "[WHAT] [count=N] [interval=SECONDS]",
            "Show IOPS, MB/s, latency and queue of LUs, hosts, arrays and pairs, again and again until Ctrl-C.",
            {
                "what": "lus, hosts, arrays or pairs; all by default",
                "count": "how often; without end by default",
                "interval": "seconds between two looks; 1 by default",
            },
            ("watch", "watch lus --count=5 interval=2", "watch hosts"),
            {"what": ("lus", "hosts", "arrays", "pairs")},
        ),
        "saveconfig": CommandText(
            "[FILE]",
            "Write the configuration with its secrets to a file, mode 0600. annexd itself saves each change.",
            {"file": "where to"},
            ("saveconfig annex-monday.json",),
        ),
        "restoreconfig": CommandText(
            "[FILE] [PART…] [backup=NUMBER] [yes=true]",
            "Show what a saved configuration, or parts of it, would change; ask, and make it the one in force.",
            {"file": "as saveconfig wrote it", "backup": "one of the versions that annexd has kept"} | YES,
            ("restoreconfig annex-monday.json", "restoreconfig annex-monday.json /devices", "restoreconfig backup=17"),
        ),
        "backups": CommandText("", "List the versions of its configuration that annexd has kept."),
        "clearconfig": CommandText(
            "[yes=true]",
            "Take everything away from hosts: devices, arrays, virtual devices, targets. Data stays where it is.",
            YES,
            ("clearconfig", "clearconfig --yes"),
        ),
        "import": CommandText(
            "targetcli FILE [output=FILE] [yes=true]",
            "Take over the kernel target's saveconfig.json; say what could not be taken over.",
            {"format": "targetcli", "file": "usually /etc/target/saveconfig.json", "output": "write a file instead"}
            | YES,
            ("import targetcli /etc/target/saveconfig.json", "import targetcli saveconfig.json output=annex.json"),
            {"format": ("targetcli",)},
        ),
    },
)

NODES: Mapping[str, NodeText] = {"/": ROOT} | ENTRIES | TPG

# Parameters that are true or false.
FLAGS = frozenset({"yes", "wait", "copy", "read_only", "array_control", "header_digest", "data_digest", "on"})


class Topic(NamedTuple):
    """A command of a node, for the pages that list all of them."""

    path: str
    command: str
    text: CommandText


def commands(kind: str) -> dict[str, CommandText]:
    """Give the commands of a kind of node, with those that every node has."""
    return _COMMON | NODES[kind].commands


def command(kind: str, name: str) -> CommandText:
    """Give one command of a kind of node."""
    return commands(kind)[name]


def topics() -> Iterator[Topic]:
    """Give every command once: those of every node first, with the path "", then node by node."""
    for name, text in _COMMON.items():
        yield Topic("", name, text)
    for path, node in NODES.items():
        for name, text in node.commands.items():
            yield Topic(path, name, text)


def help_lines(kind: str, topic: str = "") -> Iterator[str]:
    """Give what `help` shows: about a kind of node, or about one of its commands."""
    if topic:
        yield from _command_lines(topic, command(kind, topic))
        return
    node = NODES[kind]
    yield node.summary
    if kind == "/":
        yield ""
        yield from INTRODUCTION
    yield ""
    yield "Commands:"
    known = commands(kind)
    width = max(map(len, known))
    for name in sorted(known):
        yield f"  {name:{width}}  {known[name].summary}"
    examples = [example for text in node.commands.values() for example in text.examples]
    if examples:
        yield ""
        yield "Examples:"
        yield from (f"  {example}" for example in examples)


def _command_lines(name: str, text: CommandText) -> Iterator[str]:
    yield f"{name} {text.syntax}".rstrip()
    yield f"  {text.summary}"
    if text.parameters:
        yield ""
        width = max(map(len, text.parameters))
        yield from (f"  {key:{width}}  {meaning}" for key, meaning in text.parameters.items())
    if text.examples:
        yield ""
        yield "Examples:"
        yield from (f"  {example}" for example in text.examples)
