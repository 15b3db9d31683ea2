"""What the documentation's test takes for a command, and for its output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.console import Command, File, Shell, missing, steps

PAGE = """# Title

```console
$ echo one
one
$ echo two \\
    three
two …
```

<!-- file: a.json -->

```json
{}
```

```sh
not run
```

<!-- file: b
hidden
-->
"""


def test_a_page_is_read_as_its_steps() -> None:
    assert steps(PAGE) == [
        Command("echo one", ["one"], 4),
        Command("echo two \\\n    three", ["two …"], 6),
        File("a.json", "{}\n"),
        File("b", "hidden\n"),
    ]


@pytest.mark.parametrize(
    ("expected", "printed", "wanting"),
    [
        ([], ["anything"], None),
        (["b", "d"], ["a", "b", "c", "d"], None),
        (["d", "b"], ["a", "b", "c", "d"], "b"),
        (["a  b …  d"], ["a b c  d"], None),
        (["a … d"], ["a b c d"], None),
        (["a"], ["ab"], "a"),
        (["a.c"], ["abc"], "a.c"),
    ],
)
def test_what_is_documented_has_to_come_in_its_order(
    expected: list[str], printed: list[str], wanting: str | None
) -> None:
    assert missing(expected, printed) == wanting


def test_a_shell_keeps_its_variables_and_its_jobs(tmp_path: Path) -> None:
    with Shell(tmp_path, os.environ) as shell:
        shell.run(Command("NAME=value", [], 1))
        shell.run(Command('echo "$NAME"; cat', ["value"], 2))
        shell.run(Command("(echo started; exec sleep 1000) &", ["started"], 3))
        shell.run(Command("kill %1", [], 4))


@pytest.mark.parametrize(
    "command",
    [
        Command("echo no", ["yes"], 1),
        Command("false", [], 1),
        Command("echo annexd: refused", ["annexd: refused"], 1),
    ],
)
def test_a_command_that_does_something_else_fails(tmp_path: Path, command: Command) -> None:
    with Shell(tmp_path, os.environ) as shell, pytest.raises(AssertionError, match="line 1"):
        shell.run(command)


def test_a_command_may_be_documented_to_fail(tmp_path: Path) -> None:
    with Shell(tmp_path, os.environ) as shell:
        shell.run(Command("echo annexd: file: bad; false", ["annexd: …: bad"], 1))
