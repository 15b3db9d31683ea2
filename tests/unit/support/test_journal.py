"""The checker itself: what it lets pass, and what it must not."""

from __future__ import annotations

from tests.support.journal import Journal, stamped


def test_every_version_from_the_acknowledged_to_the_issued_one_may_be_read() -> None:
    journal = Journal(512)
    first = journal.issue(8, 2)
    assert list(journal.wrong(8, bytes(1024))) == []
    journal.acknowledge(8, 2)
    second = journal.issue(8, 2)
    for seen in (first, second, first[:512] + second[512:]):
        assert list(journal.wrong(8, seen)) == []


def test_a_lost_an_old_a_torn_and_a_misplaced_block_are_told() -> None:
    journal = Journal(512)
    old = journal.issue(8, 1)
    journal.acknowledge(8, 1)
    new = journal.issue(8, 1)
    journal.acknowledge(8, 1)
    seen = {"lost": bytes(512), "old": old, "torn": old[:256] + new[256:], "misplaced": stamped(9, 1, 2, 512)}
    faults = {name: next(journal.wrong(8, data), None) for name, data in seen.items()}
    assert all(faults.values()), faults
    assert list(journal.wrong(8, new)) == []


def test_a_block_from_the_future_is_told() -> None:
    journal = Journal(512)
    journal.issue(8, 1)
    assert list(journal.wrong(8, stamped(8, 1, 2, 512))) == ["block 8: version 2, acknowledged 0, issued 1"]


def test_zeroes_of_an_unmap_are_seen_from_its_issue_until_something_newer_is_acknowledged() -> None:
    journal = Journal(512)
    journal.issue(4, 2)
    journal.acknowledge(4, 2)
    assert list(journal.wrong(4, bytes(512)))
    journal.issue_unmap(4, 1)
    assert not list(journal.wrong(4, bytes(512)))
    assert list(journal.wrong(5, bytes(512)))
    journal.acknowledge(4, 1)
    assert list(journal.wrong(4, stamped(4, 1, 1, 512)))
    journal.issue(4, 1)
    journal.acknowledge(4, 1)
    assert list(journal.wrong(4, bytes(512)))


def test_a_write_same_leaves_its_one_block_in_each() -> None:
    journal = Journal(512)
    block = journal.issue_same(4, 3)
    journal.acknowledge(4, 3)
    assert not list(journal.wrong(4, block * 3))
    assert list(journal.wrong(3, block))
    assert list(journal.wrong(5, stamped(5, 1, 1, 512)))
