"""What the service manager's status line says of pairs."""

from types import SimpleNamespace
from typing import Any

from backends.pairs.pair import Pair
from daemon import readiness
from tests.support.pair_world import PairWorld

BLOCKS = 20480
SERVING = "serving 0 logical units on 1 portal"


class World:
    """A pair that holds the same on both sides, and may be told that it does not know."""

    def __init__(self) -> None:
        self.world = PairWorld()
        self.primary = self.world.add_unit(1, blocks=BLOCKS)
        self.pair: Pair = self.world.create(self.primary, self.world.add_unit(2, blocks=BLOCKS))
        self.world.scheduler.advance(5.0)
        self.assembly: Any = SimpleNamespace(pairs=self.world.book, virtual_devices={})

    def status(self) -> str:
        return readiness.status(self.assembly, 1)


def test_a_pair_that_compares_its_sides_is_named_until_it_knows() -> None:
    world = World()
    assert world.status() == SERVING
    device: Any = world.primary.virtual_device
    device.hold = lambda operation: operation.name == "read"
    world.pair.change(unverified=True)
    world.pair.synchronizer.advance()
    world.world.scheduler.run_until_idle()
    assert world.status() == f"{SERVING}; pair 1 compares its sides, 0 % done"
    for _ in range(5):
        device.release()
        world.world.scheduler.run_until_idle()
    assert world.status() == f"{SERVING}; pair 1 compares its sides, 50 % done"
    device.hold = False
    device.release_all()
    world.world.scheduler.advance(5.0)
    assert world.status() == SERVING


def test_a_comparison_that_an_admin_asked_for_is_a_job_and_not_in_the_status() -> None:
    world = World()
    device: Any = world.primary.virtual_device
    device.hold = lambda operation: operation.name == "read"
    world.pair.synchronizer.verify(lambda _error: None)
    assert world.pair.synchronizer.walk is not None
    assert world.status() == SERVING
