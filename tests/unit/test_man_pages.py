"""The man pages, and the page of the configuration's keys: whole, and readable by groff."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from config import descriptions, model
from config.shell import texts
from scripts import man

PAGES = pytest.mark.parametrize("page", man.PAGES, ids=[page.file for page in man.PAGES])


def as_read(text: str) -> str:
    """Give a page as a reader sees it, without line breaks."""
    # No bold by overstriking, and no hyphenation, which would cut options in two.
    command = ["groff", "-K", "utf8", "-man", "-Tutf8", "-P-c", "-P-b", "-P-u", "-rHY=0", "-rLL=1000n"]
    environment = os.environ | {"GROFF_NO_SGR": "1"}
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, env=environment, timeout=30)
    return " ".join(done.stdout.split())


def as_words(text: str) -> str:
    return " ".join(text.split())


@PAGES
def test_groff_finds_nothing_to_warn_of(page: man.Page) -> None:
    command = ["groff", "-K", "utf8", "-man", "-ww", "-z", "-Tutf8"]
    done = subprocess.run(command, input=man.page(page), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@PAGES
def test_a_page_holds_every_option_and_every_command(page: man.Page) -> None:
    shown = as_read(man.page(page))
    for parser in man.parsers(page.parser()):
        assert parser.prog in shown
        for action in parser._actions:
            for option in action.option_strings:
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown), option


@PAGES
def test_every_option_says_what_it_is_for(page: man.Page) -> None:
    for parser in man.parsers(page.parser()):
        options = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
        assert [action.dest for action in options if not action.help] == []


@PAGES
def test_a_page_has_the_sections_that_man_pages_has(page: man.Page) -> None:
    found = re.findall(r"^\.SH (.+)$", man.page(page), re.MULTILINE)
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXAMPLES", "SEE ALSO"]
    assert [section for section in found if section in wanted] == wanted
    assert page.section != 8 or "EXIT STATUS" in found


@PAGES
def test_a_page_does_not_depend_on_the_terminal(page: man.Page, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = man.page(page)
    monkeypatch.setenv("COLUMNS", "40")
    assert man.page(page) == wide


def test_a_page_that_is_named_is_made() -> None:
    named = {match for page in man.PAGES for match in re.findall(r"^\.BR (\S+) \((\d)\)", man.page(page), re.MULTILINE)}
    assert named == {(page.name, str(page.section)) for page in man.PAGES}


def test_the_page_of_the_shell_holds_every_node_command_and_parameter() -> None:
    shown = as_read(man.page(next(page for page in man.PAGES if page.name == "annexcli")))
    for path, node in texts.NODES.items():
        assert f"{path} {as_words(node.summary)}" in shown
    for _, name, text in texts.topics():
        assert as_words(f"{name} {text.syntax} {text.summary}") in shown
        assert all(as_words(f"{key} {meaning}") in shown for key, meaning in text.parameters.items()), name
        assert all(as_words(example) in shown for example in text.examples), name


def test_every_key_of_the_configuration_is_described_and_nothing_else() -> None:
    entries = {
        entry for entry in vars(model).values()
        if isinstance(entry, type) and issubclass(entry, model.Entry) and entry is not model.Entry
    }  # fmt: skip
    assert set(descriptions.PLACES) == set(descriptions.DESCRIPTIONS) == entries
    for entry in entries:
        keys = [field.name for field in msgspec.structs.fields(entry)]
        assert list(descriptions.DESCRIPTIONS[entry]) == keys, entry.__name__
        assert all(descriptions.DESCRIPTIONS[entry].values()), entry.__name__


def test_the_page_of_the_configuration_holds_every_key() -> None:
    shown = as_read(man.page(next(page for page in man.PAGES if page.name == "annex.conf")))
    for entry, keys in descriptions.DESCRIPTIONS.items():
        assert descriptions.PLACES[entry] in shown
        for key, meaning in keys.items():
            assert f"{key} " in shown
            assert " ".join(meaning.replace("`", "").split()) in shown, key


def test_the_tables_of_the_configuration_page_are_up_to_date() -> None:
    assert man.configuration_page() == man.CONFIGURATION_PAGE.read_text(), "run `make docs`"


def test_the_command_writes_each_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["man.py", str(tmp_path)])
    man.main()
    assert {path.name for path in tmp_path.iterdir()} == {page.file for page in man.PAGES}
