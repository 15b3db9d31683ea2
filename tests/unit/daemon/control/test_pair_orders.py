"""An admin's orders to pairs, by the engine that hosts command: the same refusals, in words; jobs with progress."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from config.errors import ConfigError
from daemon.control.errors import RefusedError, UnknownError
from daemon.control.jobs import MOST_ENDED, Jobs
from daemon.control.out_of_sync import out_of_sync
from daemon.control.pair_orders import PaceForm, PairForm, PairOrders
from daemon.control.views import PairRow, pair_row
from scsi.volume import Fault
from tests.support.clock import VirtualScheduler
from tests.support.pair_world import LINK_LOST, PairWorld, pattern

T = TypeVar("T")
BLOCKS = 20480


class Admin:
    """Two virtual devices of one size, one that is larger, and who gives orders to them."""

    def __init__(self) -> None:
        self.world = PairWorld()
        self.units = {name: self.world.add_unit(at, blocks=blocks) for at, (name, blocks) in enumerate(
            [("one", BLOCKS), ("two", BLOCKS), ("large", BLOCKS * 2)], 1
        )}  # fmt: skip
        for name, unit in self.units.items():
            cast("Any", unit.virtual_device).name = name
        daemon: Any = SimpleNamespace(
            assembly=SimpleNamespace(
                pairs=self.world.book,
                units=self.world.units,
                virtual_devices={name: unit.virtual_device for name, unit in self.units.items()},
            )
        )
        self.jobs = Jobs(self.world.scheduler.now)
        self.daemon = daemon
        self.orders = PairOrders(daemon, self.jobs)

    def hold_copies(self) -> None:
        self.device("one").hold = lambda operation: operation.name == "read"

    def let_go(self) -> None:
        self.device("one").release_all()
        self.world.scheduler.advance(5.0)

    def device(self, name: str) -> Any:
        return self.units[name].virtual_device

    def done(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(ended(self.world.scheduler, work))

    def form(self, primary: str = "one", secondary: str = "two", **options: Any) -> Any:
        return self.done(self.orders.form(PairForm(primary, secondary, **options)))

    def pair(self) -> Any:
        (pair,) = self.world.book.pairs()
        return pair

    def row(self) -> PairRow:
        return pair_row(self.daemon, self.pair())

    def order(self, name: str) -> Any:
        return self.done(self.orders.order(self.pair(), name))


async def ended(scheduler: VirtualScheduler, work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    for _ in range(40):
        await asyncio.sleep(0)
        if task.done():
            return await task
        scheduler.advance(0.5)
    raise AssertionError("it does not end")


@pytest.fixture
def admin() -> Admin:
    return Admin()


def test_a_pair_is_formed_and_its_copy_is_a_job_with_progress(admin: Admin) -> None:
    admin.hold_copies()
    answer = admin.form(fence_level="data", label="a label")
    assert (answer.pair.primary, answer.pair.secondary) == ("one", "two")
    assert (answer.pair.state, answer.pair.fence_level, answer.pair.label) == ("COPY", "data", "a label")
    assert (answer.job.state, answer.job.done_blocks, answer.job.total_blocks) == ("running", 0, BLOCKS)
    admin.let_go()
    row = admin.jobs.row(answer.job.id)
    assert (row.state, row.done_blocks, row.error) == ("done", BLOCKS, None)
    assert row.ended is not None
    assert row.ended > row.started


def test_a_pair_that_holds_the_same_already_needs_no_job(admin: Admin) -> None:
    assert admin.form(copy=False).job is None
    assert admin.pair().row().state.name == "PAIR"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"secondary": "large"}, f"{BLOCKS} and {BLOCKS * 2} blocks"),
        ({"secondary": "one"}, "one LU on both sides"),
        ({"pace_mib_s": -1}, "is not within 0"),
        ({"label": "x" * 33}, "longer than 32 bytes"),
        ({"label": "a\nb"}, "do not print"),
    ],
    ids=["sizes differ", "one LU", "pace", "long label", "label of two lines"],
)
def test_what_can_not_be_a_pair_is_refused_in_words(admin: Admin, form: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        admin.form(**form)
    assert words in str(refused.value)
    assert not admin.world.book.pairs()


def test_a_secondary_that_a_host_writes_to_is_refused_and_the_host_is_named(admin: Admin) -> None:
    other = "iqn.2026-11.org.example:other"
    admin.world.units.hosts[admin.device("two").naa] = frozenset({other})
    with pytest.raises(RefusedError, match=f"mapped read-write to {other}"):
        admin.form()


def test_a_name_that_is_no_virtual_device_is_unknown(admin: Admin) -> None:
    with pytest.raises(UnknownError):
        admin.form(secondary="none")


def test_split_resync_swap_and_takeover_are_those_of_a_host(admin: Admin) -> None:
    admin.form(copy=False)
    assert admin.order("split").pair.state == "PSUS"
    assert admin.order("resync").pair.state in {"COPY", "PAIR"}
    admin.world.scheduler.advance(5.0)
    assert admin.order("split").pair.state == "PSUS"
    assert admin.order("takeover").pair.state == "SSWS"
    swapped = admin.order("swap").pair
    assert (swapped.primary, swapped.secondary) == ("two", "one")


def test_an_order_that_the_state_forbids_is_refused_with_the_state(admin: Admin) -> None:
    admin.form(copy=False)
    with pytest.raises(RefusedError, match="in PAIR"):
        admin.order("swap")


def test_a_comparison_is_a_job_with_progress(admin: Admin) -> None:
    admin.form(copy=False)
    admin.hold_copies()
    job = admin.orders.verify(admin.pair()).job
    assert job is not None
    assert (job.state, job.done_blocks) == ("running", 0)
    admin.let_go()
    assert (admin.jobs.row(job.id).state, admin.jobs.row(job.id).done_blocks) == ("done", BLOCKS)


def test_a_comparison_that_the_state_forbids_is_refused_and_no_job(admin: Admin) -> None:
    admin.form(copy=False)
    admin.order("split")
    before = admin.jobs.rows()
    with pytest.raises(RefusedError):
        admin.orders.verify(admin.pair())
    assert admin.jobs.rows() == before


def verifying(admin: Admin) -> str:
    """Begin to compare, up to some block; give the job."""
    admin.form(copy=False)
    admin.hold_copies()
    job = admin.orders.verify(admin.pair()).job
    assert job is not None
    for _ in range(3):
        admin.device("one").release()
        admin.world.scheduler.run_until_idle()
    return job.id


def reads(admin: Admin) -> int:
    return sum(operation.startswith("read") for operation in admin.device("one").operations())


def test_a_comparison_that_is_cancelled_stops_and_says_how_far_it_was(admin: Admin) -> None:
    job = verifying(admin)
    row = admin.jobs.cancel(job)
    assert row.state == "cancelled"
    assert 0 < row.done_blocks < BLOCKS
    before = reads(admin)
    admin.let_go()
    assert reads(admin) == before
    assert admin.pair().synchronizer.walk is None
    assert admin.jobs.row(job) == row
    with pytest.raises(RefusedError, match="is cancelled already"):
        admin.jobs.cancel(job)
    again = admin.orders.verify(admin.pair()).job
    admin.let_go()
    assert again is not None
    assert admin.jobs.row(again.id).state == "done"


def test_what_a_cancelled_comparison_has_found_stays_marked(admin: Admin) -> None:
    admin.form(copy=False)
    admin.device("two").data[0] ^= 1
    admin.hold_copies()
    job = admin.orders.verify(admin.pair()).job
    assert job is not None
    admin.device("one").release()
    admin.world.scheduler.run_until_idle()
    admin.jobs.cancel(job.id)
    admin.let_go()
    assert admin.pair().row().out_of_sync_blocks == 8
    assert not admin.pair().in_sync()


def test_a_comparison_that_another_waits_for_goes_on(admin: Admin) -> None:
    job = verifying(admin)
    other = admin.orders.verify(admin.pair()).job
    assert other is not None
    admin.jobs.cancel(job)
    admin.let_go()
    assert (admin.jobs.row(job).state, admin.jobs.row(other.id).state) == ("cancelled", "done")


def test_a_comparison_that_the_pair_needs_goes_on_and_the_job_says_so(admin: Admin) -> None:
    job = verifying(admin)
    admin.pair().change(unverified=True)
    row = admin.jobs.cancel(job)
    assert "goes on comparing" in str(row.error)
    admin.let_go()
    assert not admin.pair().record.unverified


def test_a_copy_is_not_cancelled_but_split(admin: Admin) -> None:
    admin.hold_copies()
    job = admin.form().job
    with pytest.raises(RefusedError) as refused:
        admin.jobs.cancel(job.id)
    assert f"/pairs/{admin.pair().number} split" in str(refused.value.remedy)
    assert admin.jobs.row(job.id).state == "running"


@pytest.mark.parametrize("kind", ["copy", "verify"])
def test_the_job_of_a_pair_that_is_deleted_is_cancelled(admin: Admin, kind: str) -> None:
    if kind == "verify":
        admin.form(copy=False)
        admin.hold_copies()
        job = admin.orders.verify(admin.pair()).job
    else:
        admin.hold_copies()
        job = admin.form().job
    assert job is not None
    pair = admin.pair()

    async def deleted() -> None:
        order = asyncio.ensure_future(admin.orders.dissolve(pair))
        await asyncio.sleep(0)
        admin.device("one").release_all()  # what is under way ends before the pair does
        await order

    admin.done(deleted())
    row = admin.jobs.row(job.id)
    assert (row.state, row.error) == ("cancelled", "the pair was deleted")
    assert row.ended is not None


def test_a_copy_that_is_split_is_cancelled(admin: Admin) -> None:
    admin.hold_copies()
    job = admin.form().job
    pair = admin.pair()

    async def split() -> None:
        order = asyncio.ensure_future(admin.orders.order(pair, "split"))
        await asyncio.sleep(0)
        admin.device("one").release_all()
        await order

    admin.done(split())
    row = admin.jobs.row(job.id)
    assert (row.state, row.error) == ("cancelled", "the pair is PSUS now")


def test_a_job_that_runs_is_not_forgotten_and_one_that_ended_is(admin: Admin) -> None:
    admin.hold_copies()
    job = admin.form().job
    with pytest.raises(RefusedError, match="still runs"):
        admin.jobs.forget(job.id)
    admin.let_go()
    admin.jobs.forget(job.id)
    with pytest.raises(UnknownError):
        admin.jobs.row(job.id)


def test_jobs_that_have_ended_are_remembered_for_a_while(admin: Admin) -> None:
    admin.form(copy=False)
    for _ in range(MOST_ENDED + 20):
        admin.jobs.begin("resync", admin.pair())
    assert len(admin.jobs.rows()) <= MOST_ENDED + 1


# --- What is shown of a pair ------------------------------------------------------------------------------------------


def test_a_copy_is_shown_with_direction_rate_and_time_left(admin: Admin) -> None:
    admin.form(pace_mib_s=1)  # 10 MiB
    admin.world.scheduler.advance(4.0)
    row = admin.row()
    assert (row.state, row.doing, row.direction) == ("COPY", "copying", "primary → secondary")
    assert row.rate_mib_s == pytest.approx(1, rel=0.3)
    assert row.seconds_left == pytest.approx(6, abs=2)
    assert (row.pace_mib_s, row.stands_back, row.waiting_for) == (1, False, None)
    admin.world.scheduler.advance(10.0)
    row = admin.row()
    assert (row.state, row.doing, row.rate_mib_s, row.seconds_left) == ("PAIR", None, 0, None)


def test_a_copy_back_is_shown_as_one(admin: Admin) -> None:
    admin.form(copy=False)
    admin.order("split")
    admin.device("two").hold = lambda operation: operation.name == "read"
    admin.world.written(admin.units["one"], 0, pattern(1))
    assert admin.order("reverse").pair.direction == "secondary → primary"
    assert admin.row().doing == "copying"


def test_a_comparison_is_shown_with_how_far_it_is(admin: Admin) -> None:
    admin.form(copy=False, pace_mib_s=1)
    admin.orders.verify(admin.pair())
    admin.world.scheduler.advance(5.0)
    row = admin.row()
    assert (row.state, row.doing) == ("PAIR", "comparing")
    assert row.compared_percent is not None
    assert 30 < row.compared_percent < 70
    assert row.seconds_left == pytest.approx(5, abs=2)


def test_a_copy_that_waits_says_for_which_leg_and_why(admin: Admin) -> None:
    admin.hold_copies()
    admin.form()
    admin.device("two").set_unready(LINK_LOST)
    admin.let_go()
    row = admin.row()
    assert row.waiting_for == row.fault == "/vdevs/two: link lost: planned"
    assert row.doing is None


def test_a_pair_in_psue_says_why_and_what_it_waits_for(admin: Admin) -> None:
    admin.form(copy=False, fence_level="status")
    admin.device("two").fail("write", Fault.WRITE_ERROR)
    assert admin.world.written(admin.units["one"], 0, pattern(1)) is None
    row = admin.row()
    assert row.state == "PSUE"
    assert row.last_error is not None
    assert row.last_error.startswith("the leg of two was lost: write error")
    assert row.fault == row.last_error
    assert row.waiting_for == "a resync"
    admin.device("two").heal()
    assert admin.order("resync").pair.fault is None, "it copies, and nothing is wrong"
    admin.world.scheduler.advance(5.0)
    row = admin.row()
    assert (row.state, row.fault, row.waiting_for) == ("PAIR", None, None)
    assert row.last_error is not None, "it is still what went wrong last"


def test_a_copy_that_stands_back_for_hosts_says_so(admin: Admin) -> None:
    admin.form(pace_mib_s=0, copy=False)
    admin.done(admin.orders.set_pace(admin.pair(), PaceForm(least_pace_mib_s=1)))
    admin.hold_copies()
    admin.orders.verify(admin.pair())
    for _ in range(20):
        admin.world.units.host_operations += 1
        admin.world.scheduler.advance(0.1)
        if admin.device("one").held:
            admin.device("one").release()
    row = admin.row()
    assert (row.doing, row.stands_back) == ("comparing", True)


def test_the_pace_is_changed_while_a_copy_runs_and_survives_a_restart(admin: Admin) -> None:
    admin.form(pace_mib_s=1)
    admin.world.scheduler.advance(1.0)
    row = admin.done(admin.orders.set_pace(admin.pair(), PaceForm(pace_mib_s=4)))
    assert (row.pace_mib_s, row.least_pace_mib_s) == (4, 16)
    admin.world.scheduler.advance(3.0)
    assert admin.row().state == "PAIR", "10 MiB at 1 MiB/s take 10 s"
    admin.done(admin.orders.set_pace(admin.pair(), PaceForm(least_pace_mib_s=2)))
    admin.world.restart()
    (pair,) = admin.world.book.pairs()
    assert (pair.record.pace_mib_s, pair.record.least_pace_mib_s) == (4, 2)


@pytest.mark.parametrize(
    "form", [PaceForm(pace_mib_s=-1), PaceForm(pace_mib_s=65536), PaceForm(least_pace_mib_s=0)], ids=str
)
def test_a_pace_outside_its_bounds_is_refused_and_nothing_changes(admin: Admin, form: PaceForm) -> None:
    admin.form(copy=False)
    with pytest.raises(RefusedError, match="is not within"):
        admin.done(admin.orders.set_pace(admin.pair(), form))
    assert (admin.row().pace_mib_s, admin.row().least_pace_mib_s) == (0, 16)


def test_the_blocks_out_of_sync_are_listed_page_by_page(admin: Admin) -> None:
    admin.form(copy=False)
    admin.order("split")
    for lba in (0, 1000, 1008, 20000):
        admin.world.written(admin.units["one"], lba, pattern(1))
    whole = out_of_sync(admin.pair(), {})
    assert [(at.first_lba, at.blocks) for at in whole.ranges] == [(0, 8), (1000, 16), (20000, 8)]
    assert (whole.block_bytes, whole.out_of_sync_blocks, whole.next_lba) == (512, 32, None)
    first = out_of_sync(admin.pair(), {"limit": "1"})
    assert ([(at.first_lba, at.blocks) for at in first.ranges], first.next_lba) == ([(0, 8)], 1000)
    second = out_of_sync(admin.pair(), {"limit": "1", "first_lba": "1000"})
    assert second.next_lba == 20000


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"first_lba": "-1"}, {"first_lba": "9" * 30}], ids=str
)
def test_a_page_that_can_not_be_is_refused(admin: Admin, query: dict[str, str]) -> None:
    admin.form(copy=False)
    with pytest.raises(ConfigError, match="is not a number within"):
        out_of_sync(admin.pair(), query)
