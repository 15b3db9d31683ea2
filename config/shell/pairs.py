"""/pairs: the pairs of virtual devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from config.durations import duration_words
from config.shell.errors import Usage
from config.shell.node import Collection, Entry, Row, Summary, summary
from config.shell.progress import wait_for_job
from config.shell.sizes import parse_size
from config.shell.words import truth

MIB = 1024 * 1024
_PACES = {"pace": "pace_mib_s", "least_pace": "least_pace_mib_s"}


class PairNode(Entry):
    """A pair."""

    kind = "/pairs/NUMBER"

    def summary(self) -> Summary:
        row = self.row
        arrow = "←" if row.get("direction") == "secondary → primary" else "→"
        sides = f"{row.get('primary')} {arrow} {row.get('secondary')}"
        out, waiting = row.get("out_of_sync_blocks"), row.get("waiting_for")
        facts = (
            sides,
            _percent(row),
            f"{out} blocks out of sync" if out else "",
            progress_words(row),
            f"waits for {waiting}" if waiting and waiting != row.get("fault") else "",
            "fence held" if row.get("fence_held") else "",
        )
        return summary(row, facts)

    def ui_command_set(self, **keys: str) -> None:
        self.change({_PACES[key]: _pace(key, value) for key, value in self.keys_of_set(keys).items()})

    def ui_command_ranges(self, first_lba: str = "0", limit: str = "100") -> None:
        found = self.fetch(f"{self.url}/out_of_sync?{urlencode({'first_lba': first_lba, 'limit': limit})}")
        terminal = self.shell.terminal
        if terminal.as_json:
            terminal.document(found)
            return
        terminal.say(f"{found['out_of_sync_blocks']} blocks of {found['block_bytes']} bytes are out of sync")
        if found["ranges"]:
            terminal.table(("first LBA", "blocks"), [(row["first_lba"], row["blocks"]) for row in found["ranges"]])
        if found["next_lba"] is not None:
            terminal.say(f"more: ranges first_lba={found['next_lba']}")

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
            body["pace_mib_s"] = _pace("pace", pace)
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


def progress_words(row: Row) -> str:
    """Say what a pair is doing, how fast, and how long that will take; "" when it does nothing."""
    doing = row.get("doing")
    if not doing:
        return ""
    parts = [f"{doing} {row.get('rate_mib_s', 0):.1f} MiB/s"]
    if row.get("compared_percent") is not None:
        parts.append(f"{row['compared_percent']} % compared")
    if row.get("seconds_left") is not None:
        parts.append(f"{duration_words(row['seconds_left'])} left")
    if row.get("stands_back"):
        parts.append("hosts are busy")
    return ", ".join(parts)


def _pace(key: str, text: str) -> int:
    """Give a pace in MiB a second.

    Raises:
        Usage: it is not in whole MiB, or nothing where there has to be something.
    """
    mebibytes, rest = divmod(parse_size(key, text), MIB)
    if rest or (not mebibytes and key != "pace"):
        raise Usage(key, f"{text[:80]!r} is not in whole MiB")
    return mebibytes


def _percent(row: Row) -> str:
    percent = row.get("copied_percent")
    return f"{percent} %" if percent is not None else ""
