import pytest

from config.shell.errors import Usage
from config.shell.words import Command, check_iscsi_name, check_name, parse, split


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("", None),
        ("   # a remark", None),
        ("ls", Command("", "ls", [], {})),
        ("/devices", Command("/devices", "cd", ["."], {})),
        ("..", Command("..", "cd", ["."], {})),
        ("/devices create disk0 /dev/sdb", Command("/devices", "create", ["disk0", "/dev/sdb"], {})),
        ("create a b --wait pace=5MiB", Command("", "create", ["a", "b"], {"wait": "true", "pace": "5MiB"})),
        ("x --max-iops=5", Command("", "x", [], {"max_iops": "5"})),
        ("create v disk0,size=10G", Command("", "create", ["v", "disk0,size=10G"], {})),
        ("create v '/dev/with space=1'", Command("", "create", ["v", "/dev/with space=1"], {})),
        ("set userid=", Command("", "set", [], {"userid": ""})),
        ("luns/* ls", Command("luns/*", "ls", [], {})),
    ],
)
def test_a_line_is_path_command_values_and_keywords(line: str, command: Command | None) -> None:
    assert parse(split(line)) == command


@pytest.mark.parametrize("word", ["a\nb", "a\x1b[31m", "a\x00", "a\u202eb", "a\udcff"])
def test_a_word_with_control_characters_is_refused(word: str) -> None:
    with pytest.raises(Usage) as refused:
        parse(["/devices", "create", word, "/dev/sdb"])
    assert str(refused.value).isprintable()


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(Usage, match="twice"):
        parse(split("create a=1 a=2"))


def test_a_quotation_that_does_not_end_is_refused() -> None:
    with pytest.raises(Usage, match="quotation"):
        split("create 'a")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "näme", "-a", "a" * 256, "ä" * 200])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(Usage):
        check_name("name", name)


@pytest.mark.parametrize("name", ["", "iqn.2026-11.org.exämple:a", "iqn." + "a" * 220, "iqn.2026-11/x"])
def test_what_is_no_iscsi_name_is_refused(name: str) -> None:
    with pytest.raises(Usage):
        check_iscsi_name("target", name)
