import pytest

from scsi.iscsi.names import (
    InvalidName,
    check_node_name,
    check_peer_name,
    initiator_port_name,
    target_port_name,
)

GOOD = [
    "iqn.2026-11.io.annex:try",
    "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-ls",
    "iqn.2001-04.com.example",
    "eui.02004567A425678D",
    "naa.52004567BA64678D",
    "naa.62004567BA64678D0123456789ABCDEF",
]
BAD = [
    "",
    "disk",
    "iqn.2026-13.io.annex:month",
    "iqn.26-11.io.annex",
    "iqn.2026-11",
    "iqn.2026-11.io.annex:with space",
    "iqn.2026-11.io.annex:with/slash",
    "iqn.2026-11.io.annex:with\nnewline",
    "iqn.2026-11.io.annex:with\x00nul",
    "iqn.2026-11.io.annex:UPPER",
    "iqn.2026-11.io.annex:" + "a" * 203,
    "iqn.2026-11.-io.annex:hyphen",
    "eui.02004567A425678",
    "naa.52004567BA64678D0",
    "eui.0200 567A425678D",
]


@pytest.mark.parametrize("name", GOOD)
def test_a_well_formed_name_is_returned_in_its_normal_form(name: str) -> None:
    assert check_node_name(name) == name.lower() == check_peer_name(name)


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_node_name(name)


def test_a_name_is_measured_in_bytes() -> None:
    name = "iqn.2026-11.io.annex:" + "ü" * 101
    assert len(name) < 223
    assert check_node_name(name) == name
    with pytest.raises(InvalidName, match="223"):
        check_node_name(name + "ü")


def test_a_name_of_a_peer_may_be_looser_but_can_do_no_harm_in_a_log() -> None:
    assert check_peer_name("iqn.x:Host_1") == "iqn.x:host_1"
    for name in ("", "iqn.x:a\nb", "iqn.x:a\x1b[1m", "iqn.x:a b", "a" * 224, "iqn.x:%s/..", "iqn.x:\u202eevil"):
        with pytest.raises(InvalidName):
            check_peer_name(name)


def test_port_names_are_made_of_the_node_name_and_what_tells_ports_apart() -> None:
    assert initiator_port_name("iqn.x:h", bytes.fromhex("80a1b2c30001")) == "iqn.x:h,i,0x80a1b2c30001"
    assert target_port_name("iqn.x:t", 1) == "iqn.x:t,t,0x0001"
