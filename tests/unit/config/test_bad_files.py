"""Files that anyone may have damaged: each gives a configuration that can be saved, or one short line (issue 3)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import model, store
from config.errors import MAX_PART_CHARACTERS, ConfigError
from tests.unit.config.documents import BASE

MAX_LINE_CHARACTERS = 3 * MAX_PART_CHARACTERS + 20


def refused(data: bytes) -> str:
    """Give the line that is said of a bad file."""
    with pytest.raises(ConfigError) as error:
        store.decode(data, "annex.json")
    line = str(error.value)
    assert line.startswith("annex.json")
    assert line.isprintable()
    assert len(line) < MAX_LINE_CHARACTERS
    assert "canary" not in line
    return line


def with_name(group: str, key: str, name: str) -> bytes:
    document = json.loads(json.dumps(BASE))
    document[group][0][key] = name
    return json.dumps(document).encode()


# --- A file that is not whole, or of another version ---


def test_half_a_file_is_refused_wherever_it_ends() -> None:
    data = json.dumps(BASE).encode()
    for length in range(0, len(data), 7):
        refused(data[:length])


@pytest.mark.parametrize("version", [3, 4, 10**6, 10**30])
def test_a_newer_version_is_refused_and_nothing_of_it_is_guessed(version: int) -> None:
    line = refused(json.dumps({"version": version, "shape": "other"}).encode())
    assert "newer than this annexd knows (2)" in line
    assert "update annexd" in line


@pytest.mark.parametrize("version", [0, -1, 1.0, "2", None, True, [], {}])
def test_a_version_that_never_was_is_refused(version: object) -> None:
    assert "version" in refused(json.dumps(BASE | {"version": version}).encode())


def test_a_file_of_version_1_is_read_and_saved_as_version_2(tmp_path: Path) -> None:
    path = tmp_path / "annex.json"
    path.write_text(json.dumps(BASE | {"version": 1}))
    path.chmod(0o600)
    config = store.load(path)
    assert config == store.decode(json.dumps(BASE).encode(), "annex.json")
    store.save(path, config)
    assert json.loads(path.read_text())["version"] == model.VERSION
    assert json.loads((tmp_path / "backup").glob("*").__next__().read_text())["version"] == 1


def test_a_key_of_version_2_in_a_file_of_version_1_is_taken() -> None:
    config = store.decode(json.dumps(BASE | {"version": 1, "control": {}}).encode(), "annex.json")
    assert config.control == model.Control()


# --- Sizes ---


def test_ten_megabytes_are_refused_without_being_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "annex.json"
    path.write_bytes(b'{"version": 2, "state_directory": "' + b"x" * 10_000_000 + b'"}')
    with pytest.raises(ConfigError, match="is larger than 8388608 bytes"):
        store.load(path)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 8_000_000,
        b'{"a":' * 1_000_000,
        b"7" * 8_000_000,
        b'"' + b"x" * 8_000_000 + b'"',
        b'{"version": 2, "state_directory": "/' + b"x" * 8_000_000 + b'"}',
        b'{"version": 2, "state_directory": "/s", "' + b"x" * 8_000_000 + b'": 1}',
        b'{"version": 2, "state_directory": "/s", "devices": [' + b"{}," * 2_000_000 + b"{}]}",
        b"{" + b",".join(b'"%d":1' % (n // 2) for n in range(1_200_000, 1, -1)) + b"}",
    ],
    ids=["arrays", "objects", "digits", "text", "path", "key", "devices", "keys twice"],
)
@pytest.mark.slow
def test_eight_megabytes_of_rubbish_get_a_short_line_soon(data: bytes) -> None:
    before = time.process_time()
    refused(data)
    assert time.process_time() - before < 10


@pytest.mark.slow
def test_ten_thousand_of_everything_are_checked_soon() -> None:
    count = range(10_000)
    document = {
        "version": 2,
        "state_directory": "/s",
        "devices": [{"name": f"d{n}", "path": f"/dev/d{n}"} for n in count],
        "virtual_devices": [
            {"name": "long", "regions": [{"device": "d0", "first_lba": n, "blocks": 1} for n in range(50_000)]},
            *({"name": f"v{n}", "regions": [{"device": f"d{n}"}]} for n in count[1:]),
        ],
        "targets": [
            {
                "name": "iqn.2026-11.org.example:t",
                "portals": ["127.0.0.1"],
                "luns": [],
                "acls": [{"initiator": f"iqn.2026-11.org.example:h{n}"} for n in count],
            }
        ],
    }
    before = time.process_time()
    store.decode(json.dumps(document).encode(), "annex.json")
    assert time.process_time() - before < 10


# --- Names ---

BAD_NAMES = [
    "",
    "a/b",
    "/",
    "..",
    "a\nb",
    "a\0b",
    "a b",
    "\x1b[2J",
    "é",
    "名",
    "\u202e",
    "\ud800",
    "n" * 300,
    "-a",
    "a" * 256,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
@pytest.mark.parametrize(
    ("group", "key"),
    [
        ("devices", "name"),
        ("arrays", "name"),
        ("virtual_devices", "name"),
        ("targets", "name"),
        ("arrays", "target"),
    ],
)
def test_names_that_break_paths_logs_or_initiators_are_refused(group: str, key: str, name: str) -> None:
    refused(with_name(group, key, name))


@pytest.mark.parametrize(
    "path", ["", "dev/sda", "/dev/\0", "/dev/a\nb", "/" + "x" * 5000, "/\ud800", "/\x1b[2J"], ids=ascii
)
def test_paths_that_no_file_can_have_are_refused(path: str) -> None:
    refused(with_name("devices", "path", path))
    refused(json.dumps(BASE | {"state_directory": path}).encode())
    refused(json.dumps(BASE | {"control": {"socket": path}}).encode())


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "n" * 256, "\x1b[2J"], ids=ascii)
def test_chap_names_that_break_a_log_are_refused(name: str) -> None:
    refused(json.dumps(BASE | {"discovery": {"chap": {"name": name, "secret": "canary " * 3}}}).encode())


# --- Keys and types ---


@pytest.mark.parametrize("key", ["colour", "Version", "a\nb", "\x1b[2J", "é", "x" * 300, ""], ids=ascii)
def test_an_unknown_key_is_named_and_refused_at_every_level(key: str) -> None:
    refused(json.dumps(BASE | {key: 1}).encode())
    for group in ("devices", "arrays", "virtual_devices", "targets"):
        document = json.loads(json.dumps(BASE))
        document[group][0][key] = 1
        assert group in refused(json.dumps(document).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(sorted(BASE)), inner)
    ),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """Give a good file in which some values are others."""
    document = json.loads(json.dumps(BASE))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = document
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and draw(st.integers(0, 4)):
                place = place[key]
                continue
            place[key] = draw(JSON)
            break
    return document


@settings(deadline=None, max_examples=200)
@given(damaged() | JSON)
def test_any_document_is_refused_in_one_line_or_can_be_saved_and_loaded_again(document: Any) -> None:
    try:
        config = store.decode(json.dumps(document).encode(), "annex.json")
    except ConfigError as error:
        line = str(error)
    else:
        line = ""
        assert store.decode(store.encode(config, "annex.json"), "again") == config
    assert line.isprintable()
    assert len(line) < MAX_LINE_CHARACTERS


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]:,"0 e-nul\\ud8', max_size=60).map(str.encode))
def test_any_bytes_are_refused_in_one_line(data: bytes) -> None:
    refused(data)
