"""Ids of virtual devices."""

from __future__ import annotations

from backends.naa import is_own, make_naa


def test_id_is_naa_6_of_a_locally_administered_company() -> None:
    naa = make_naa(lambda count: b"\xff" * count)
    assert naa.hex() == "602616e" + "f" * 25
    assert naa[0] >> 4 == 6
    company = int.from_bytes(naa[:4]) >> 4 & 0xFFFFFF
    assert company >> 16 & 0b11 == 0b10  # locally administered, and no group address


def test_ids_differ() -> None:
    assert len({make_naa() for _ in range(100)}) == 100


def test_own_ids_are_told_from_others() -> None:
    assert is_own(make_naa())
    assert not is_own(make_naa()[:15])
    assert not is_own(bytes.fromhex("60000000000000000000000000000001"))
