"""UNMAP and WRITE SAME at an external LU: by its commands where they keep the promise of zeroes, else by writing."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.external import replies
from backends.external.lba_status import LBA_STATUS_BYTES, MOST_RUNS, decode_lba_status
from scsi.iscsi.initiator_task import Undelivered
from scsi.volume import Allocation, Deallocation, Fault
from tests.support.fake_array import FakeUnit, Results, Rig, ThinOptions, check, lost

BLOCK_BYTES = 512
BLOCKS = 2048
BLOCK = bytes(range(256)) * 2
WRITE_10, SAME_10, UNMAP, SAME_16, SERVICE_ACTION_IN = 0x2A, 0x41, 0x42, 0x93, 0x9E


def rig_of(thin: ThinOptions | None, max_transfer_blocks: int = 0) -> Rig:
    rig = Rig(FakeUnit(blocks=BLOCKS, thin=thin, max_transfer_blocks=max_transfer_blocks))
    rig.lu.data[:] = b"\xaa" * len(rig.lu.data)
    rig.array.journal.clear()
    return rig


def unmap(rig: Rig, lba: int, blocks: int) -> Results:
    results = Results()
    rig.unit.unmap(lba, blocks, results)
    rig.clock.run_until_idle()
    return results


def write_same(rig: Rig, lba: int, blocks: int, block: bytes = BLOCK) -> Results:
    results = Results()
    rig.unit.write_same(lba, block, blocks, results)
    rig.clock.run_until_idle()
    return results


def allocation(rig: Rig, lba: int, blocks: int) -> Results:
    results = Results()
    rig.unit.allocation(lba, blocks, results)
    rig.clock.run_until_idle()
    return results


def check_content(rig: Rig, lba: int, blocks: int, block: bytes = bytes(BLOCK_BYTES)) -> None:
    expected = bytearray(b"\xaa" * len(rig.lu.data))
    expected[lba * BLOCK_BYTES : (lba + blocks) * BLOCK_BYTES] = block * blocks
    assert rig.lu.data == expected


# --- Who can what -----------------------------------------------------------------------------------------------------

KINDS = {
    "all of it": (ThinOptions(), Deallocation(8)),
    "pieces that do not begin at 0": (ThinOptions(first_lba=5), Deallocation(8, 5)),
    "WRITE SAME (10) only": (ThinOptions(same_16=False, unmap=False), Deallocation(8)),
    "UNMAP only": (ThinOptions(same_16=False, same_10=False), Deallocation(8)),
    "UNMAP, and WRITE SAME not listed": (ThinOptions(same_10=False, same_16=False, listed=False), Deallocation(8)),
    "unmapped blocks hold anything": (ThinOptions(zeroes=False), None),
    "not thin": (ThinOptions(management=False), None),
    "small limits": (ThinOptions(max_write_same=9, max_unmap=9), Deallocation(8)),
    "limits below a piece": (ThinOptions(same_16=False, same_10=False, max_unmap=3), None),
    "not even WRITE SAME": (ThinOptions(management=False, same_16=False, same_10=False), None),
    "knows nothing": (None, None),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lba", "blocks"), [(0, 1), (5, 3), (8, 16), (3, 60), (13, 8), (0, BLOCKS), (BLOCKS - 1, 1)])
def test_blocks_read_as_zeroes_whatever_the_array_can(kind: str, lba: int, blocks: int) -> None:
    thin, deallocation = KINDS[kind]
    rig = rig_of(thin)
    assert rig.unit.deallocation == deallocation
    assert unmap(rig, lba, blocks) == [None]
    check_content(rig, lba, blocks)
    if thin is not None:
        thin.unmapped.clear()  # the table has one for all


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lba", "blocks"), [(0, 1), (3, 60), (0, BLOCKS)])
def test_one_block_is_written_to_many_whatever_the_array_can(kind: str, lba: int, blocks: int) -> None:
    rig = rig_of(KINDS[kind][0])
    assert write_same(rig, lba, blocks) == [None]
    check_content(rig, lba, blocks, BLOCK)


@pytest.mark.parametrize(
    ("thin", "sent"),
    [
        (ThinOptions(), [SAME_16, SAME_16, SAME_16]),
        (ThinOptions(same_16=False), [SAME_10, SAME_10, SAME_10]),
        (ThinOptions(same_16=False, same_10=False), [WRITE_10, WRITE_10, WRITE_10, UNMAP]),
        (ThinOptions(zeroes=False), [SAME_16]),
        (ThinOptions(management=False), [SAME_16]),
        (None, [WRITE_10]),
    ],
)
def test_whole_pieces_are_unmapped_and_parts_of_pieces_written(thin: ThinOptions | None, sent: list[int]) -> None:
    rig = rig_of(thin)
    assert unmap(rig, 5, 30) == [None]  # 5…7, 8…31, 32…34
    assert sorted(rig.array.operations()) == sorted(sent)
    if thin is not None:
        assert thin.unmapped == ({1, 2, 3} if rig.unit.deallocation else set())


def test_a_lu_beyond_2_tib_is_never_sent_write_same_10() -> None:
    thin = ThinOptions(same_16=False, unmap=False)
    rig = Rig(FakeUnit(blocks=(1 << 32) + 8, data=bytearray(64 * BLOCK_BYTES), thin=thin))
    rig.array.journal.clear()
    assert rig.unit.deallocation is None
    assert write_same(rig, 0, 8) == [None]
    assert rig.array.operations() == [0x8A]


def test_long_ranges_are_cut_to_the_limits_that_the_array_gave() -> None:
    rig = rig_of(ThinOptions(max_write_same=100))
    assert write_same(rig, 0, 250) == [None]
    assert rig.array.operations() == [SAME_16] * 3
    rig.array.journal.clear()
    assert unmap(rig, 0, 250) == [None]
    assert rig.array.operations() == [SAME_16] * 4, "96, 96, 56 unmapped, and 2 written"


def test_writes_that_stand_in_are_no_longer_than_the_array_takes() -> None:
    rig = rig_of(None, max_transfer_blocks=16)
    assert unmap(rig, 0, 100) == [None]
    assert rig.array.operations() == [WRITE_10] * 7
    check_content(rig, 0, 100)


# --- What goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asc", [0x20, 0x24, 0x26])
def test_an_array_that_refuses_what_it_says_it_has_is_not_asked_again(asc: int) -> None:
    rig = rig_of(ThinOptions(max_write_same=8))
    rig.lu.always[SAME_16] = check(5, asc, 0)
    assert unmap(rig, 5, 30) == [None]
    check_content(rig, 5, 30)
    assert rig.unit.deallocation is None
    rig.array.journal.clear()
    assert unmap(rig, 5, 30) == [None]
    assert rig.array.operations() == [WRITE_10]


def test_an_unmap_that_is_refused_leaves_zeroes() -> None:
    rig = rig_of(ThinOptions(same_16=False, same_10=False))
    rig.lu.always[UNMAP] = check(5, 0x26, 0)
    assert unmap(rig, 5, 30) == [None]
    check_content(rig, 5, 30)
    assert rig.unit.deallocation is None


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (check(3, 0x0C, 0, information=20), Fault.WRITE_ERROR),
        (check(7, 0x27, 0x07), Fault.NO_SPACE),
        (check(7, 0x27, 0x00), Fault.WRITE_PROTECTED),
        (check(5, 0x21, 0x00), Fault.HARDWARE),
        (lost(Undelivered.TIMED_OUT), Fault.TIMED_OUT),
    ],
)
@pytest.mark.parametrize("operate", [unmap, write_same])
def test_what_fails_is_told_once_and_the_rest_is_not_begun(operate: object, answer: object, fault: Fault) -> None:
    rig = rig_of(ThinOptions(max_write_same=8))
    rig.lu.always[SAME_16] = answer  # type: ignore[assignment]  # either kind of answer
    assert callable(operate)
    assert operate(rig, 0, 8 * 100).faults == [fault]
    assert len(rig.array.operations()) == 8


def test_data_that_was_not_taken_is_an_error() -> None:
    rig = rig_of(ThinOptions())
    short = check(0, 0, 0)
    short.status, short.residual = 0, 512
    rig.lu.always[SAME_16] = short
    assert write_same(rig, 0, 8).faults == [Fault.WRITE_ERROR]


def test_a_unit_that_is_away_refuses_and_nothing_is_sent() -> None:
    rig = rig_of(ThinOptions())
    rig.path.cut()
    rig.clock.run_until_idle()
    assert unmap(rig, 0, 8).faults == [Fault.BECOMING_READY]
    assert write_same(rig, 0, 8).faults == [Fault.BECOMING_READY]
    assert allocation(rig, 0, 8).faults == [Fault.BECOMING_READY]
    assert rig.unit.deallocation == Deallocation(8), "what it can is not forgotten"


def test_a_link_that_is_lost_in_the_middle_ends_it_and_the_lu_is_reset_before_anything_newer() -> None:
    rig = rig_of(ThinOptions(max_write_same=8))
    rig.array.stalled = True
    results = Results()
    rig.unit.unmap(0, 8 * 100, results)
    rig.clock.run_until_idle()
    rig.path.cut()
    rig.clock.run_until_idle()
    assert results.faults == [Fault.LINK_LOST]
    assert rig.unit.reset_needed
    rig.array.stalled = False
    rig.reconnect()
    assert rig.array.resets == 1
    assert rig.array.operations().count(SAME_16) == 0, "no piece slipped in behind the loss"
    assert len(results) == 1


def test_pieces_do_not_go_on_while_the_unit_is_brought_up_again() -> None:
    rig = rig_of(ThinOptions(same_16=False, same_10=False))
    results = Results()
    rig.array.stalled = True
    rig.unit.unmap(0, 8, results)
    rig.clock.run_until_idle()
    rig.unit.set_pending("looked at again", reachable=True)
    rig.array.resume()
    rig.clock.run_until_idle()
    assert results.faults == [Fault.BECOMING_READY]
    assert rig.array.operations(UNMAP) == []


# --- GET LBA STATUS ---------------------------------------------------------------------------------------------------


def test_what_has_storage_is_asked_of_the_array() -> None:
    rig = rig_of(ThinOptions())
    assert unmap(rig, 16, 16) == [None]
    (runs,) = allocation(rig, 12, 30)
    mapped = [run.mapped for run in runs for _ in range(run.blocks)]
    assert mapped == [True] * 4 + [False] * 16 + [True] * 10


@pytest.mark.parametrize("thin", [None, ThinOptions(management=False), ThinOptions(zeroes=False)])
def test_an_array_whose_unmapped_blocks_are_not_zero_or_that_has_none_is_not_asked(thin: ThinOptions | None) -> None:
    rig = rig_of(thin)
    assert allocation(rig, 12, 30) == [[Allocation(30, mapped=True)]]
    assert rig.array.operations() == []


def test_an_array_that_does_not_answer_it_has_storage_everywhere() -> None:
    rig = rig_of(ThinOptions())
    rig.lu.always[SERVICE_ACTION_IN] = check(5, 0x20, 0)
    assert allocation(rig, 12, 30) == [[Allocation(30, mapped=True)]]


def encoded(*descriptors: tuple[int, int, int], length: int | None = None) -> bytes:
    body = b"".join(struct.pack(">QIB3x", *descriptor) for descriptor in descriptors)
    return struct.pack(">I4x", len(body) + 4 if length is None else length) + body


@pytest.mark.parametrize(
    ("data", "runs"),
    [
        (encoded((0, 100, 1)), [(30, False)]),
        (encoded((12, 5, 0), (17, 3, 1), (20, 900, 2)), [(5, True), (3, False), (22, True)]),
        (encoded((12, 5, 0), (18, 3, 1)), [(5, True)]),
        (encoded((12, 5, 0), (16, 3, 1)), [(5, True)]),
        (encoded((12, 5, 0), (17, 0, 1)), [(5, True)]),
        (encoded((12, 0, 1)), None),
        (encoded((13, 5, 1)), None),
        (encoded((0, 12, 1)), None),
        (encoded((12, 5, 1), length=3), None),
        (encoded((12, 5, 1), length=0), None),
        (encoded((12, 5, 1), length=2**32 - 1), [(5, False)]),
        (encoded((12, 5, 1))[:-1], None),
        (encoded(), None),
        (b"", None),
        (bytes(7), None),
    ],
)
def test_v32_what_the_array_says_of_storage_is_checked(data: bytes, runs: list[tuple[int, bool]] | None) -> None:
    found = decode_lba_status(data, 12, 30)
    assert found == (None if runs is None else [Allocation(*run) for run in runs])


@given(st.binary(max_size=LBA_STATUS_BYTES + 40), st.integers(0, 2**63), st.integers(1, 2**32))
def test_v32_any_bytes_give_runs_within_what_was_asked_for_or_none(data: bytes, lba: int, blocks: int) -> None:
    runs = decode_lba_status(data, lba, blocks)
    if runs is not None:
        assert 0 < len(runs) <= MOST_RUNS
        assert all(run.blocks > 0 for run in runs)
        assert sum(run.blocks for run in runs) <= blocks


# --- Replies at set-up ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=80))
def test_any_bytes_are_taken_for_limits_provisioning_and_support(data: bytes) -> None:
    for page in (0xB0, 0xB2):
        framed = bytes([0, page]) + len(data).to_bytes(2, "big") + data
        limits = replies.decode_block_limits(framed)
        assert limits.unmap_alignment < max(limits.unmap_granularity, 1)
        replies.decode_provisioning(framed)
    replies.decode_block_limits(data)
    replies.decode_provisioning(data)
    replies.decode_is_supported(data)
    replies.decode_read_capacity_16(data)


def test_a_short_block_limits_page_says_what_it_has() -> None:
    page = bytes([0, 0xB0, 0, 12]) + struct.pack(">4xI4x", 77)
    assert replies.decode_block_limits(page) == replies.BlockLimits(max_transfer_blocks=77)


def test_an_alignment_that_is_not_valid_is_none() -> None:
    def decode(granularity: int, alignment: int) -> tuple[int, int]:
        page = struct.pack(">BBH24xIIQ20x", 0, 0xB0, 60, granularity, alignment, 0)
        limits = replies.decode_block_limits(page.ljust(64, b"\0"))
        return limits.unmap_granularity, limits.unmap_alignment

    assert decode(8, 3) == (8, 0)
    assert decode(8, 0x80000003) == (8, 3)
    assert decode(8, 0x80000000 | 11) == (8, 3)
    assert decode(0, 0x80000003) == (0, 0)


# --- A model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_an_external_lu_holds_what_a_list_of_blocks_would_hold(seed: int) -> None:
    rng = random.Random(seed)
    thin = ThinOptions(
        unmap=rng.random() < 0.7,
        same_16=rng.random() < 0.5,
        same_10=rng.random() < 0.5,
        listed=rng.random() < 0.5,
        zeroes=rng.random() < 0.8,
        granularity=rng.choice((1, 2, 8, 16)),
        max_write_same=rng.choice((0, 1, 7, 32)),
        max_unmap=rng.choice((1, 8, 100)),
    )
    thin.first_lba = rng.randrange(thin.granularity)
    rig = rig_of(thin)
    model = bytearray(rig.lu.data)
    for _ in range(60):
        lba = rng.randrange(120)
        blocks = rng.randint(1, 128 - lba)
        place = slice(lba * BLOCK_BYTES, (lba + blocks) * BLOCK_BYTES)
        if rng.random() < 0.5:
            model[place] = bytes(blocks * BLOCK_BYTES)
            assert unmap(rig, lba, blocks) == [None]
        else:
            block = rng.choice((BLOCK, rng.randbytes(BLOCK_BYTES), bytes(BLOCK_BYTES)))
            model[place] = block * blocks
            assert write_same(rig, lba, blocks, block) == [None]
        results = Results()
        rig.unit.read(0, 128, results)
        rig.clock.run_until_idle()
        assert results == [bytes(model[: 128 * BLOCK_BYTES])]
