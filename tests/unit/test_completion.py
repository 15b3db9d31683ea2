"""What bash offers for a half-typed command line of one of our programs."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import completion, man
from tests.support.annexd import ROOT
from tests.support.fake_api import FakeApi

PROGRAMS = pytest.mark.parametrize("program", list(completion.PARSERS))

# Complete the last word, as bash does for a person who pressed the tab key.
COMPLETE = """
source "$1"; shift
specification=$(complete -p "$1") || exit 1
[[ $specification =~ -F\\ ([^ ]+) ]] || exit 1
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
"${BASH_REMATCH[1]}" "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.argv", ["completion.py", str(tmp_path)])
    completion.main()
    return tmp_path


def offered(folder: Path, line: str) -> set[str]:
    """Give what bash offers for the last word of a line; a blank at its end begins a new word."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    command = ["bash", "--norc", "-c", COMPLETE, "bash", str(folder / words[0]), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=30)
    errors = [each for each in done.stderr.splitlines() if "compopt" not in each]  # only bash itself may call that
    assert (done.returncode, errors) == (0, []), done.stderr
    return set(done.stdout.split())


@PROGRAMS
def test_bash_reads_it_without_a_word(folder: Path, program: str) -> None:
    command = ["bash", "--norc", "-u", "-c", 'source "$1" && complete -p "$2"', "bash", str(folder / program), program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == program


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("annexd ", {"init", "serve", "adopt", "try"}),
        ("annexd s", {"serve"}),
        ("annexd serve --c", {"--config", "--check"}),
        ("annexd try --loop ", {"uvloop", "asyncio"}),
        ("annexd serve --log-level w", {"warning"}),
        ("annexhost pair c", {"create"}),
        ("annexhost pair create /dev/sdb --fence ", {"never", "status", "data"}),
        ("annexhost pair create /dev/sdb --sec", {"--secondary"}),
        ("annexhost ac", {"acquire", "acquisitions"}),
    ],
)
def test_what_is_offered(folder: Path, line: str, words: set[str]) -> None:
    assert offered(folder, line) == words


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("annexd serve --config ann", {"annex.json", "annex.d"}),
        ("annexd try --local ann", {"annex.json", "annex.d"}),
        ("annexd try --state ann", {"annex.d"}),
        ("annexhost acquire /dev/sdb -o ann", {"annex.json", "annex.d"}),
        ("annexhost pair split ann", {"annex.json", "annex.d"}),
    ],
)
def test_files_are_offered_where_one_is_wanted(folder: Path, line: str, found: set[str]) -> None:
    (folder / "annex.json").touch()
    (folder / "annex.d").mkdir()
    assert offered(folder, line) - set(completion.PARSERS) == found


# --- annexcli, which is asked itself ---


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with FakeApi(tmp_path) as api:
        api.state["devices"] = [{"name": "disk0"}, {"name": "disk1"}]
        api.state["vdevs"] = [{"name": "data"}]
        api.state["pairs"] = [{"number": number} for number in (1, 2, 3)]
        api.state["groups"] = [{"name": "db", "pairs": [2]}]
        api.state["targets"] = [{"name": "iqn.2026-11.org.example:annex"}]
        yield api


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/de", {"/devices/"}),
        ("/devices/", {"/devices/disk0", "/devices/disk1"}),
        ("/devices cr", {"create"}),
        ("/devices delete ", {"disk0", "disk1", "yes=", "--yes"}),
        ("/devices st", {"status"}),
        ("/groups create g 1 ", {"3", "suspend="}),
        ("/groups create g suspend=", {"together", "alone"}),
        ("/groups/db add ", {"1", "3"}),
        ("/groups/db remove ", {"2"}),
        ("sta", {"status"}),
        ("/pairs create data fence_level=", {"data", "status", "never"}),
        ("/pairs create data x --w", {"--wait"}),
        ("/iscsi/i", {"/iscsi/iqn.2026-11.org.example:annex/"}),
        ("/iscsi/iqn.2026-11.org.example:an", {"annex/"}),
        ("/iscsi/iqn.2026-11.org.example:annex/tpg1/l", {"annex/tpg1/luns/"}),
        ("/iscsi/iqn.2026-11.org.example:annex/tpg1/luns create /v", {"/vdevs/data"}),
        ("/nowhere ", set()),
    ],
)
def test_annexcli_offers_what_there_is(
    folder: Path, api: FakeApi, monkeypatch: pytest.MonkeyPatch, line: str, words: set[str]
) -> None:
    monkeypatch.setenv("PATH", f"{ROOT / 'bin'}:{os.environ['PATH']}")
    assert offered(folder, f"annexcli --socket {api.path} {line}") == words
    assert api.requests == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "words"),
    [("", {"/devices/", "status"}), ("/p", {"/pairs/"}), ("--j", {"--json"}), ("--token-file ann", {"annexd"})],
)
def test_without_a_daemon_annexcli_offers_what_is_always_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: set[str]
) -> None:
    monkeypatch.setenv("PATH", f"{ROOT / 'bin'}:{os.environ['PATH']}")
    assert words <= offered(folder, f"annexcli --socket {folder / 'nobody'} {line}")


@PROGRAMS
def test_every_option_and_command_is_offered(program: str) -> None:
    text = completion.completion(program)
    for parser in man.parsers(completion.PARSERS[program]()):
        for action in parser._actions:
            for word in [*action.option_strings, *(action.choices or [])]:
                assert str(word) in text
