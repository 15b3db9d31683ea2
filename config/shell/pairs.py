"""/pairs: the pairs of virtual devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from config.shell.errors import Usage
from config.shell.node import Collection, Entry, Row, Summary, summary
from config.shell.progress import wait_for_job
from config.shell.sizes import parse_size
from config.shell.words import truth

MIB = 1024 * 1024


class PairNode(Entry):
    """A pair."""

    kind = "/pairs/NUMBER"

    def summary(self) -> Summary:
        sides = f"{self.row.get('primary')} → {self.row.get('secondary')}"
        return summary(self.row, (sides, _percent(self.row)))

    def ui_command_split(self) -> None:
        self._do("split")

    def ui_command_resync(self, wait: str = "false") -> None:
        self._do("resync", wait)

    def ui_command_reverse(self, wait: str = "false", yes: str = "false") -> None:
        if self.agreed(f"Copy the secondary of pair {self.name} over its primary?", yes):
            self._do("reverse", wait)

    def ui_command_verify(self, wait: str = "false") -> None:
        self._do("verify", wait)

    def ui_command_takeover(self, yes: str = "false") -> None:
        if self.agreed(f"Take over: make the secondary of pair {self.name} writable?", yes):
            self._do("takeover")

    def ui_command_swap(self, yes: str = "false") -> None:
        if self.agreed(f"Make the secondary of pair {self.name} its primary?", yes):
            self._do("swap")

    def _do(self, verb: str, wait: str = "false") -> None:
        waits = truth("wait", wait)
        answer = self.shell.api.post(f"{self.url}/{verb}")
        finish(self, answer, waits, f"{verb}: pair {self.name}")


class PairsNode(Collection):
    """The pairs."""

    kind = "/pairs"
    noun = "pair"
    key = "number"
    entry = PairNode

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        if command == "create" and parameter in {"primary", "secondary"}:
            return [row["name"] for row in self.fetch("/v1/vdevs") if row["name"] != given.get("primary")]
        return super().values(command, parameter, given)

    def ui_command_create(
        self,
        primary: str,
        secondary: str,
        fence_level: str = "never",
        copy: str = "true",
        pace: str = "",
        label: str = "",
        wait: str = "false",
    ) -> None:
        body: dict[str, Any] = {
            "primary": primary.removeprefix("/vdevs/"),
            "secondary": secondary.removeprefix("/vdevs/"),
            "fence_level": fence_level,
            "copy": truth("copy", copy),
        }
        if label:
            body["label"] = label
        if pace:
            mebibytes, rest = divmod(parse_size("pace", pace), MIB)
            if rest or not mebibytes:
                raise Usage("pace", f"{pace[:80]!r} is not in whole MiB")
            body["pace_mib_s"] = mebibytes
        waits = truth("wait", wait)
        finish(self, self.shell.api.post(self.url, body), waits, f"formed pair {primary} → {secondary}")

    def ui_command_delete(self, number: str, yes: str = "false") -> None:
        self.remove(number, yes, "Dissolve pair {}?")


def finish(node: Any, answer: Any, waits: bool, words: str) -> None:
    """Wait for the job that something long has become, when that is wanted; say what was done."""
    job = answer_job(answer)
    if job and waits:
        done: Row = wait_for_job(node.shell.api, node.shell.terminal, job)
        node.say_done(done, f"{words}: done")
    elif job:
        node.say_done(answer, f"{words}: job {job['id']} runs, see /jobs")
    else:
        node.say_done(answer, words)


def answer_job(answer: Any) -> Row | None:
    """Give the job in an answer, if there is one."""
    if not isinstance(answer, dict):
        return None
    inner = answer.get("job")
    if isinstance(inner, dict):
        return inner
    return answer if "kind" in answer and "id" in answer else None


def _percent(row: Row) -> str:
    percent = row.get("copied_percent")
    return f"{percent} %" if percent is not None else ""
