"""/groups: pairs whose secondaries are to be of one moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from config.shell.errors import Refused
from config.shell.node import Collection, Entry, Row, Summary, summary
from config.shell.progress import wait_for_job
from config.shell.words import number, truth

SECONDARIES = {"mirrored": "mirrored", "one_moment": "secondaries of one moment", "mixed": "secondaries mixed"}


class GroupNode(Entry):
    """A group."""

    kind = "/groups/NAME"

    def summary(self) -> Summary:
        pairs = ", ".join(str(pair) for pair in self.row.get("pairs") or ()) or "none"
        return summary(self.row, (f"pairs {pairs}", SECONDARIES.get(str(self.row.get("secondaries")), "")))

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        if parameter == "pair" and command == "remove":
            return [str(pair) for pair in self.row.get("pairs") or ()]
        if parameter == "pair" and command == "add":
            return free_pairs(self)
        return super().values(command, parameter, given)

    def ui_command_split(self) -> None:
        self._do("split")

    def ui_command_resync(self, wait: str = "false") -> None:
        self._do("resync", wait)

    def ui_command_reverse(self, wait: str = "false", yes: str = "false") -> None:
        self._do_when_agreed("reverse", f"Copy the secondaries of group {self.name} over their primaries?", yes, wait)

    def ui_command_takeover(self, yes: str = "false") -> None:
        self._do_when_agreed("takeover", f"Take over: make the secondaries of group {self.name} writable?", yes)

    def ui_command_swap(self, wait: str = "false", yes: str = "false") -> None:
        self._do_when_agreed("swap", f"Make the secondaries of group {self.name} the primaries?", yes, wait)

    def ui_command_dissolve(self, yes: str = "false") -> None:
        if self.agreed(f"End all pairs of group {self.name}, and the group?", yes):
            self.say_done(self.shell.api.post(f"{self.url}/dissolve"), f"dissolved {self.path}")

    def ui_command_add(self, pair: str) -> None:
        self._have([*self.row["pairs"], number("pair", pair)])

    def ui_command_remove(self, pair: str) -> None:
        self._have([other for other in self.row["pairs"] if other != number("pair", pair)])

    def ui_command_set(self, **keys: str) -> None:
        self.change(dict(self.keys_of_set(keys)))

    def _have(self, pairs: list[int]) -> None:
        self.change({"pairs": pairs})

    def _do_when_agreed(self, verb: str, question: str, yes: str, wait: str = "false") -> None:
        waits = truth("wait", wait)
        plan = self.shell.api.post(f"{self.url}/{verb}?dry_run=true")
        steps = plan["steps"]
        refused = [step for step in steps if step.get("refusal")]
        if refused:
            self._do(verb)  # which says why not
            return
        if not self.shell.terminal.as_json:
            for step in steps:
                self.shell.terminal.say(f"pair {step['pair']}: {step['state']} → {step['next_state']}")
        if self.agreed(question, yes):
            self._do(verb, "true" if waits else "false")

    def _do(self, verb: str, wait: str = "false") -> None:
        waits = truth("wait", wait)
        answer: Row = self.shell.api.post(f"{self.url}/{verb}")
        jobs = answer.get("jobs") or []
        group = answer.get("group") or {}
        words = f"{verb}: group {self.name}: {group.get('state')}"
        if jobs and waits:
            answer = {"jobs": self._wait(jobs)}
            words = f"{verb}: group {self.name}: done"
        elif jobs:
            words += f", jobs {', '.join(str(job['id']) for job in jobs)} run, see /jobs"
        self.say_done(answer, words)

    def _wait(self, jobs: list[Row]) -> list[Row]:
        ended, failed = [], []
        for job in jobs:
            try:
                ended.append(wait_for_job(self.shell.api, self.shell.terminal, job))
            except Refused as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return ended


class GroupsNode(Collection):
    """The groups."""

    kind = "/groups"
    noun = "group"
    entry = GroupNode

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        if command == "create" and parameter in {"*", "pairs"}:
            return free_pairs(self)
        return super().values(command, parameter, given)

    def ui_command_create(self, name: str, *pairs: str, suspend: str = "together") -> None:
        body: dict[str, Any] = {
            "name": name,
            "pairs": [number("pairs", pair.removeprefix("/pairs/")) for pair in pairs],
            "suspend": suspend,
        }
        self.say_created(self.shell.api.post(self.url, body), name)

    def ui_command_delete(self, name: str, yes: str = "false") -> None:
        self.remove(name, yes, "End group {}? Its pairs stay.")


def free_pairs(node: Any) -> list[str]:
    """Give the numbers of the pairs that are in no group."""
    taken = {pair for row in node.fetch("/v1/groups") for pair in row.get("pairs") or ()}
    return [str(row["number"]) for row in node.fetch("/v1/pairs") if row["number"] not in taken]
