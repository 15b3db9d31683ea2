"""The form of the shell's texts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CommandText:
    """A command.

    Attributes:
        syntax: what follows its name.
        summary: what it does, in a sentence.
        parameters: what each means.
        examples: whole commands, as typed at the node.
        choices: the values of a parameter, where these are always the same.
    """

    syntax: str
    summary: str
    parameters: dict[str, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def keys(self) -> list[str]:
        """Give the names of its parameters."""
        return list(self.parameters)


@dataclass(frozen=True)
class NodeText:
    """A kind of node: what it is, and the commands that not every node has."""

    summary: str
    commands: dict[str, CommandText] = field(default_factory=dict)


YES = {"yes": "true: do not ask"}

CHAP = {
    "userid": "CHAP name of the other side; empty for no CHAP",
    "password": "its secret; seen by whoever sees your screen, so rather:",
    "password_file": "a file with the secret",
    "credential": "or the name of a credential of the service (systemd LoadCredential)",
    "mutual_userid": "the same four for the other direction",
    "mutual_password": "",
    "mutual_password_file": "",
    "mutual_credential": "",
}
