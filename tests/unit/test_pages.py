"""No command stands in a page that nothing runs, and no link leads nowhere.

A `console` block is run by tests/interop/test_docs.py, in docs/install.md by tests/packaging/test_install_page.py; the
EXAMPLES of the man pages by tests/interop/test_man_examples.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.console import Command, examples, steps

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAN_PAGES = sorted((ROOT / "docs" / "man").glob("*.man"))

KERNEL = "is for the kernel's initiator: tests/support/open_iscsi.py does it on a Linux host, for tests/linux"
# Commands in a block of another kind than console, and why.
NOT_RUN = {
    "./demo.sh": "is run by itself",
    "./test.sh": "is what runs this test",
    "./test.sh -k reservations": "is the same",
    "make test": "runs tests that this run has too",
    "make test-all": "runs this test too, and more",
    "make fmt": "would change the checkout that is tested; its two commands are checks of ./test.sh",
    "bin/annexd --help": "is what tests/unit/test_man_pages.py makes the pages from",
    "./test.sh --setup-only": "has made the environment that this runs in",
    "iscsiadm -m node -T iqn.2019-04.org.example:old-array -u": KERNEL,
    "iscsiadm -m discovery -t sendtargets -p 192.0.2.1": KERNEL,
    "iscsiadm -m node -T iqn.2026-11.org.example:annex -l": KERNEL,
}
NO_COMMANDS = {"annexhost pair create is answered GOOD yes": "is what ./demo.sh prints"}

# What a shell would run: a program by its name or path, perhaps after a prompt, sudo or assignments. In prose and in
# pictures of trees and tables no line begins so.
_PROGRAMS = (
    r"\./\S+|(?:bin/)?annex(?:cli|host|d (?:serve|try|init|-\S+))|apt(?:-get)?|bash|cat|cd|chmod|chown|cp|curl|dd|"
    r"export|git|head|install|"
    r"iscsi-\S+|iscsiadm|journalctl|kill|losetup|ls|lsblk|make|mkdir|mkfs\S*|modprobe|mount|mv|openssl|pip|"
    r"prometheus|promtool|python3?|qemu-\S+|rm|sed|sg_\S+|sh|ssh|systemctl|systemd-\S+|targetcli|tee|tgtadm|touch|"
    r"truncate|umount|\.venv/\S+"
)
_COMMAND = re.compile(rf"(?:[$#] +\S|(?:sudo |[A-Z_]+=\S* )*(?:{_PROGRAMS})(?: +[\w/<$\"'-]|$))")


def looks_like_a_command(line: str) -> bool:
    return _COMMAND.match(line.strip()) is not None


def commands_of_no_console_block(page: str) -> set[str]:
    """Give what is in a shell's block but is not run: remarks after a command are not part of it."""
    blocks = re.findall(r"^ *```(?:sh|bash|shell|zsh)\b.*\n((?:.*\n)*?) *```", page, re.MULTILINE)
    return {re.split(r" +# ", line)[0].strip() for block in blocks for line in block.splitlines()} - {""}


def commands_out_of_place(page: str) -> list[str]:
    """List lines that look like commands in a block of no shell's kind, or in an indented block."""
    text = re.sub(r"^<!--.*?-->", "", page, flags=re.MULTILINE | re.DOTALL)
    lines: list[str] = []

    def take(block: re.Match[str]) -> str:
        if block["kind"] not in {"console", "sh", "bash", "shell", "zsh"}:
            lines.extend(block["lines"].splitlines())
        return ""

    rest = re.sub(r"^ *```(?P<kind>\w*).*\n(?P<lines>(?:.*\n)*?) *```$", take, text, flags=re.MULTILINE)
    lines += re.findall(r"^(?: {4}|\t)(\s*\S.*)", rest, re.MULTILINE)
    return [line for line in lines if looks_like_a_command(line)]


@pytest.mark.parametrize(
    "page",
    [
        "```\ncurl -s http://annexd/v1/status\n```\n",
        "```text\n$ anything\n```\n",
        "- a list\n\n  ```\n  sudo systemctl restart annexd\n  ```\n",
        "words\n\n    annexcli ls\n",
        "```yaml\nLC_ALL=C make install\n```\n",
    ],
)
def test_a_command_out_of_place_is_found(page: str) -> None:
    assert len(commands_out_of_place(page)) == 1


@pytest.mark.parametrize("kind", ["sh", "bash", "shell", "zsh", "sh title"])
def test_a_command_in_a_shell_s_block_is_found(kind: str) -> None:
    assert commands_of_no_console_block(f"```{kind}\nfirst  # why\n\nsecond\n```\n") == {"first", "second"}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_no_command_stands_where_nothing_runs_it(page: Path) -> None:
    found = {" ".join(line.split()) for line in commands_out_of_place(page.read_text())}
    assert found == (set(NO_COMMANDS) if page.name == "README.md" else set())


def test_every_command_is_run_or_there_is_a_reason() -> None:
    assert set().union(*(commands_of_no_console_block(page.read_text()) for page in PAGES)) == set(NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_console_block_is_understood_by_what_runs_it(page: Path) -> None:
    """Each begins with a prompt, and none is indented, which would hide it."""
    text = page.read_text()
    assert len(re.findall(r"```console", text)) == len(re.findall(r"^```console\n\$ ", text, re.MULTILINE))
    run = [step for step in steps(text) if isinstance(step, Command)]
    assert bool(run) == ("```console" in text)


def test_contributing_has_nothing_to_run() -> None:
    assert "```console" not in (ROOT / "CONTRIBUTING.md").read_text()


def test_every_command_of_a_man_page_is_among_its_examples() -> None:
    for page in MAN_PAGES:
        found = examples(page.read_text())
        lines = [line.replace("\\-", "-") for line in page.read_text().splitlines() if not line.startswith((".", "["))]
        assert [line for line in lines if re.match(r"annex(d|cli|host) \S*[/-]", line) and line not in found] == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
