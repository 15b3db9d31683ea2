"""annexhost from its command line to its exit code, over an array that the test plays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.host import main as program
from config.host.main import main
from scsi import array_commands as codec
from scsi.array_commands import AcquisitionState, ArrayIn, ArrayOut, PairState
from scsi.errors import (
    AcquisitionFenceRefused,
    AlreadyPaired,
    InvalidFieldInParameterList,
    NoSuchAcquisition,
    RelayedSense,
    ScsiError,
    UnitAttention,
)
from tests.support.host_array import NAA, OTHER_NAA, FakeArray, acquisition_row, pair_row

LU = "iscsi://127.0.0.1:3260/iqn.2026-11.io.annex:try/0"
Run = Callable[..., int]


@pytest.fixture
def array() -> FakeArray:
    return FakeArray()


@pytest.fixture
def run(array: FakeArray) -> Run:
    def run(*words: str) -> int:
        return main(list(words), array.open, lambda _seconds: None)

    return run


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    """Give the one JSON document that stdout must be."""
    return json.loads(capsys.readouterr().out)


# --- Pairs ------------------------------------------------------------------------------------------------------------


def test_create_sends_what_was_asked_for(run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]) -> None:
    array.pair_rows = [[pair_row(PairState.COPY, 0)]]
    words = ("--fence", "data", "--nocopy", "--pace", "50", "--label", "databäse")
    assert run("--json", "pair", "create", LU, "--secondary", OTHER_NAA.hex(), *words) == 0
    ((cdb, data),) = array.orders
    assert cdb == (ArrayOut.PAIR_CREATE, 0, 0, 64)
    assert codec.decode_pair_create(data) == (2, True, 50, OTHER_NAA, "databäse")
    assert document(capsys)["pairs"][0]["state"] == "COPY"


@pytest.mark.parametrize("secondary", ["5", "naa." + OTHER_NAA.hex(), "0x" + OTHER_NAA.hex().upper()])
def test_the_secondary_may_be_named_by_lun_or_id(run: Run, array: FakeArray, secondary: str) -> None:
    array.pair_rows = [[pair_row()]]
    assert run("pair", "create", LU, "--secondary", secondary) == 0
    assert codec.decode_pair_create(array.orders[0][1]).secondary_naa == OTHER_NAA


def test_the_secondary_may_be_named_by_its_own_address(run: Run, array: FakeArray) -> None:
    other = "iscsi://10.0.0.1:3260/iqn.2026-11.io.annex:other/1"
    array.naa_by_address[other] = OTHER_NAA
    array.pair_rows = [[pair_row()]]
    assert run("pair", "create", LU, "--secondary", other) == 0
    assert codec.decode_pair_create(array.orders[0][1]).secondary_naa == OTHER_NAA


def test_create_with_wait_returns_when_the_copy_is_done(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]
) -> None:
    array.pair_rows = [[pair_row(PairState.COPY, percent)] for percent in (0, 40, 99)] + [[pair_row()]]
    assert run("--json", "pair", "create", LU, "--secondary", "5", "--wait") == 0
    assert document(capsys)["pairs"][0]["state"] == "PAIR"


def test_a_copy_that_ends_in_an_error_is_not_done(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]
) -> None:
    array.pair_rows = [[pair_row(PairState.COPY, 10)], [pair_row(PairState.PSUE, 10)]]
    assert run("pair", "create", LU, "--secondary", "5", "--wait") == 1
    assert "PSUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("split",), (ArrayOut.PAIR_SPLIT, 0, 0, 0)),
        (("split", "--secondary-writable"), (ArrayOut.PAIR_SPLIT, 0, 1, 0)),
        (("split", "--pair", "3"), (ArrayOut.PAIR_SPLIT, 3, 0, 0)),
        (("resync",), (ArrayOut.PAIR_RESYNC, 0, 0, 0)),
        (("resync", "--reverse"), (ArrayOut.PAIR_RESYNC, 0, 1, 0)),
        (("resync", "--swap"), (ArrayOut.PAIR_RESYNC, 0, 2, 0)),
        (("delete",), (ArrayOut.PAIR_DELETE, 0, 0, 0)),
        (("takeover",), (ArrayOut.PAIR_TAKEOVER, 0, 0, 0)),
        (("verify",), (ArrayOut.PAIR_VERIFY, 0, 0, 0)),
        (("verify", "--immediate"), (ArrayOut.PAIR_VERIFY, 0, 1, 0)),
    ],
)
def test_each_pair_command_is_sent(
    run: Run, array: FakeArray, words: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    array.pair_rows = [[pair_row()]]
    assert run("pair", words[0], LU, *words[1:]) == 0
    assert [cdb for cdb, _ in array.orders] == [expected]


def test_reverse_and_swap_exclude_each_other(run: Run, array: FakeArray) -> None:
    assert run("pair", "resync", LU, "--reverse", "--swap") == 2
    assert array.commands == 0


def test_display_shows_a_table(run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]) -> None:
    array.pair_rows = [[pair_row(PairState.COPY, 37, label="mail")]]
    assert run("pair", "display", LU) == 0
    out = capsys.readouterr().out
    for word in ("COPY", "37 %", "63", "mail", "fence held", NAA.hex(), OTHER_NAA.hex()):
        assert word in out


def test_display_of_no_pairs_is_no_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "pair", "display", LU) == 0
    assert document(capsys) == {"pairs": []}


def test_a_label_can_not_write_to_the_terminal(run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]) -> None:
    array.pair_rows = [[pair_row(label="[red]\x1b]0;x\x07")]]
    assert run("pair", "display", LU) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[red]" in out


def test_watch_ends_with_an_interrupt(array: FakeArray) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    assert main(["pair", "display", LU, "--watch"], array.open, interrupt) == program.INTERRUPTED
    assert array.commands == 1


# --- Reads ------------------------------------------------------------------------------------------------------------


def test_acquire_sends_what_was_asked_for(run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    words = ("--lba", "16", "--blocks", "20", "--region", "4", "--lifetime", "90", "--id", "7", "--vdev", "5")
    assert run("--json", "acquire", LU, *words) == 0
    ((cdb, data),) = array.orders
    assert cdb == (ArrayOut.ACQUIRE_EXTERNAL_DATA, 7, codec.IMMEDIATE, 48)
    assert codec.decode_acquire(data) == (OTHER_NAA, 16, 20, 4, 90)
    assert document(capsys)["acquisitions"][0]["crc32c"] == f"{acquisition_row(array.data).crc32c:08x}"


def test_acquire_defaults_to_the_rest_of_the_addressed_unit(run: Run, array: FakeArray) -> None:
    array.on_order = lambda cdb: array.acquisition_rows[0].append(acquisition_row(array.data, cdb.identifier))
    assert run("acquire", LU, "--lba", "30") == 0
    cdb, data = array.orders[0]
    assert cdb.identifier != 0
    assert codec.decode_acquire(data)[:3] == (NAA, 30, 70)


def test_acquire_waits_until_the_data_is_ready(run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]) -> None:
    acquiring = acquisition_row(array.data, state=AcquisitionState.ACQUIRING)
    array.acquisition_rows = [[acquiring], [acquiring], [acquisition_row(array.data)]]
    assert run("--json", "acquire", LU, "--id", "7") == 0
    assert document(capsys)["acquisitions"][0]["state"] == "ready"


def test_acquire_over_a_session_of_its_own_says_that_it_ends_with_it(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]
) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    assert run("acquire", LU, "--id", "7") == 0
    assert "--hold" in capsys.readouterr().err
    assert run("acquire", "/dev/sda", "--id", "7") == 0
    assert capsys.readouterr().err == ""


def test_acquire_with_output_hands_over_in_the_same_session(run: Run, array: FakeArray, tmp_path: Path) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    assert run("acquire", LU, "--id", "7", "-o", str(tmp_path / "copy")) == 0
    assert (tmp_path / "copy").read_bytes() == array.data
    assert len(array.opened) == 1


def test_acquire_with_hold_stays_until_the_acquisition_has_ended(run: Run, array: FakeArray) -> None:
    rows = [acquisition_row(array.data)]
    array.acquisition_rows = [rows, rows, rows, []]
    assert run("acquire", LU, "--id", "7", "--hold") == 0
    assert array.acquisition_rows == [[]]


def test_transfer_writes_the_data_and_says_that_the_checksum_agrees(
    run: Run, array: FakeArray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    assert run("transfer", LU, "7", "-o", str(tmp_path / "copy")) == 0
    assert (tmp_path / "copy").read_bytes() == array.data
    assert f"CRC32C {acquisition_row(array.data).crc32c:08x}, the same" in capsys.readouterr().out


def test_transfer_in_json_says_the_same(
    run: Run, array: FakeArray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    assert run("--json", "transfer", LU, "7", "-o", str(tmp_path / "copy")) == 0
    transferred = document(capsys)["transferred"]
    assert transferred["crc32c_checked"] is True
    assert transferred["transferred_bytes"] == len(array.data)


def test_transfer_to_stdout_puts_nothing_else_there(
    run: Run, array: FakeArray, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    assert run("transfer", LU, "7") == 0
    captured = capfdbinary.readouterr()
    assert captured.out == array.data
    assert b"the same as the array's" in captured.err


def test_a_part_is_transferred_without_a_checksum(
    run: Run, array: FakeArray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    assert run("transfer", LU, "7", "--offset", "3", "--count", "10", "-o", str(tmp_path / "copy")) == 0
    assert (tmp_path / "copy").read_bytes() == array.data[3 * 512 : 13 * 512]
    assert "not compared" in capsys.readouterr().out


def test_a_checksum_that_differs_is_an_error_and_leaves_no_file(
    run: Run, array: FakeArray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    array.data = b"\xff" + array.data[1:]
    assert run("transfer", LU, "7", "-o", str(tmp_path / "copy")) == 1
    assert list(tmp_path.iterdir()) == []
    assert "do not use it" in capsys.readouterr().err


def test_data_that_ends_early_is_an_error(run: Run, array: FakeArray, tmp_path: Path) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    array.data = array.data[: 9 * 512]
    assert run("transfer", LU, "7", "-o", str(tmp_path / "copy")) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_acquisition_is_told_with_the_sense_that_the_array_keeps(
    run: Run, array: FakeArray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array.acquisition_rows = [[acquisition_row(array.data, state=AcquisitionState.FAILED)]]
    array.refusals[codec.ARRAY_IN, ArrayIn.TRANSFER_ACQUIRED_DATA] = AcquisitionFenceRefused()
    assert run("transfer", LU, "7", "-o", str(tmp_path / "copy")) == 1
    assert "0B/81/06" in capsys.readouterr().err


def test_an_acquisition_that_is_not_there_is_the_arrays_refusal(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transfer", LU, "8") == 1
    assert "05/81/04" in capsys.readouterr().err


def test_output_that_can_not_be_written_is_told_before_data_is_fetched(
    run: Run, array: FakeArray, tmp_path: Path
) -> None:
    array.acquisition_rows = [[acquisition_row(array.data)]]
    assert run("transfer", LU, "7", "-o", str(tmp_path / "no" / "copy")) == 2


def test_end_is_sent(run: Run, array: FakeArray) -> None:
    assert run("end", LU, "7") == 0
    assert array.orders[0][0] == (ArrayOut.END_ACQUISITION, 7, 0, 0)


# --- Reports ----------------------------------------------------------------------------------------------------------


def test_vdevs_are_listed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "vdevs", LU) == 0
    assert [(row["number"], row["lun"], row["naa"]) for row in document(capsys)["virtual_devices"]] == [
        (1, 0, NAA.hex()),
        (2, 5, OTHER_NAA.hex()),
    ]


def test_regions_default_to_those_under_the_addressed_unit(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]
) -> None:
    array.naa = OTHER_NAA
    assert run("--json", "regions", LU) == 0
    assert document(capsys)["regions"][0]["number"] == 2  # the fake gives it the number of the virtual device


def test_capabilities_are_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "capabilities", LU) == 0
    assert document(capsys)["capabilities"]["features"] == ["pairs", "acquisitions"]


def test_a_report_longer_than_the_first_allocation_is_asked_for_again(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]
) -> None:
    array.vdevs = array.vdevs * 500
    assert run("--json", "vdevs", LU) == 0
    assert len(document(capsys)["virtual_devices"]) == 1000
    assert array.commands == 2


@pytest.mark.parametrize("verb", [("vdevs",), ("regions",), ("capabilities",), ("acquisitions",), ("pair", "display")])
def test_every_report_has_a_table(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str], verb: tuple[str, ...]
) -> None:
    array.acquisition_rows = [[acquisition_row(array.data, state=AcquisitionState.FAILED)]]
    array.pair_rows = [[pair_row()]]
    assert run(*verb, LU) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


# --- Refusals and bad input -------------------------------------------------------------------------------------------


def test_a_refusal_is_told_in_words_with_its_code_and_a_remedy(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]
) -> None:
    array.refusals[codec.ARRAY_OUT, ArrayOut.PAIR_CREATE] = AlreadyPaired()
    assert run("pair", "create", LU, "--secondary", "5") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "already paired" in line
    assert "05/80/01" in line
    assert "delete that pair first" in line


def test_a_refusal_in_json_is_the_one_document_on_stdout(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]
) -> None:
    array.refusals[codec.ARRAY_OUT, ArrayOut.PAIR_CREATE] = AlreadyPaired()
    assert run("pair", "create", LU, "--secondary", "5", "--json") == 1
    error = document(capsys)["error"]
    assert (error["kind"], error["sense"], error["status"]) == ("refused", "05/80/01", 2)


def test_a_bad_field_is_named_by_its_place(run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str]) -> None:
    array.refusals[codec.ARRAY_OUT, ArrayOut.PAIR_CREATE] = InvalidFieldInParameterList(8)
    assert run("pair", "create", LU, "--secondary", "5") == 1
    assert "byte 8 of the parameter list" in capsys.readouterr().err


def test_unit_attentions_are_met_and_passed(run: Run, array: FakeArray) -> None:
    array.attentions = [UnitAttention(0x29, 0x00), UnitAttention(0x80, 0x80)]
    assert run("vdevs", LU) == 0
    assert array.commands == 3


def test_unit_attentions_without_end_are_given_up(run: Run, array: FakeArray) -> None:
    array.refusals[codec.ARRAY_IN, ArrayIn.REPORT_VIRTUAL_DEVICES] = UnitAttention(0x29, 0x00)
    assert run("vdevs", LU) == 1


@pytest.mark.parametrize("error", [NoSuchAcquisition(), RelayedSense(0x4, 0x44, 0x00), RelayedSense(0x1, 0xFE, 0xFE)])
def test_any_sense_is_one_line(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str], error: ScsiError
) -> None:
    array.refusals[codec.ARRAY_OUT, ArrayOut.END_ACQUISITION] = error
    assert run("end", LU, "1") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("pair",),
        ("pair", "create"),
        ("pair", "create", LU),
        ("pair", "create", LU, "--secondary", "x"),
        ("pair", "create", LU, "--secondary", "5", "--fence", "sometimes"),
        ("pair", "create", LU, "--secondary", "5", "--pace", "65536"),
        ("pair", "create", LU, "--secondary", "5", "--pace", "fast"),
        ("pair", "create", LU, "--secondary", "5", "--label", "x" * 33),
        ("pair", "create", LU, "--secondary", "5", "--label", "\ud800"),
        ("pair", "split", LU, "--pair", "-1"),
        ("pair", "split", LU, "--pair", "0x1_"),
        ("pair", "split", LU, "--pair", "4294967296"),
        ("pair", "display", LU, "--watch", "--json"),
        ("acquire", LU, "--blocks", "4294967296"),
        ("acquire", LU, "--lba", "1" * 5000),
        ("acquire", LU, "--id", "99999999999"),
        ("transfer", LU, "99999999999"),
        ("end", LU, "99999999999"),
        ("regions", LU, "--vdev", "99999999999"),
        ("vdevs", "http://x/"),
        ("vdevs", "iscsi://"),
        ("vdevs", "iscsi://host/iqn.2026-11.a:b"),
        ("vdevs", "iscsi://host/iqn.2026-11.a:b/x"),
        ("vdevs", "iscsi://host/iqn.2026-11.a:b/99999"),
        ("vdevs", "iscsi://host:0/iqn.2026-11.a:b/0"),
        ("vdevs", "iscsi://host:99999/iqn.2026-11.a:b/0"),
        ("vdevs", "iscsi://host:port/iqn.2026-11.a:b/0"),
        ("vdevs", "iscsi:///iqn.2026-11.a:b/0"),
        ("vdevs", "iscsi://host/target/0"),
        ("vdevs", "iscsi://user@host/iqn.2026-11.a:b/0"),
        ("vdevs", "\x1b[31m"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(
    run: Run, array: FakeArray, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert "\x1b" not in captured.err
    assert array.orders == []
    assert run(*words, "--json") == 2
    assert document(capsys)["error"]["kind"] == "usage"


def test_a_bad_initiator_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--initiator", "me", "vdevs", LU]) == 2
    assert "--initiator" in capsys.readouterr().err


def test_the_secret_of_a_url_is_never_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vdevs", "iscsi://me%hunter2hunter2@host/bad-name/0"]) == 2
    assert main(["vdevs", "iscsi://me%hunter2hunter2@127.0.0.1:1/iqn.2026-11.a:b/0"]) == 3
    captured = capsys.readouterr()
    assert "hunter2" not in captured.err + captured.out


def test_a_target_that_is_not_there_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vdevs", "iscsi://127.0.0.1:1/iqn.2026-11.a:b/0"]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_disk_that_is_not_there_is_exit_code_3() -> None:
    assert main(["vdevs", "/dev/no-such-disk"]) == 3
    assert main(["vdevs", "/dev/null"]) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("InitiatorName=iqn.2026-11.org.example:x\n", "iqn.2026-11.org.example:x"),
        ("## made by\n\n InitiatorName = iqn.2026-11.org.example:y  \nInitiatorAlias=z\n", "iqn.2026-11.org.example:y"),
    ],
)
def test_the_name_of_open_iscsi_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "initiatorname.iscsi").write_text(text)
    monkeypatch.setattr(program, "INITIATOR_NAME_FILE", tmp_path / "initiatorname.iscsi")
    assert program._initiator_name(None) == expected


def test_without_open_iscsi_the_name_is_made_of_the_hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "INITIATOR_NAME_FILE", tmp_path / "nothing")
    monkeypatch.setattr("socket.gethostname", lambda: "My_Host.example")
    assert program._initiator_name(None) == "iqn.2026-11.io.annex:host.my-host.example"
