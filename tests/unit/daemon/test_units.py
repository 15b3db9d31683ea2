"""What hosts are told when the virtual device under a unit begins to serve; what they do on the devices under it."""

from __future__ import annotations

from backends.regions import Region
from backends.virtual_device import VirtualDevice
from config import model
from daemon.units import Units
from scsi.saved_parameters import NOT_KEPT
from scsi.target import TargetPort
from scsi.volume import Deallocation, Done, Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

READ_ONE_BLOCK = bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0])
AWAY = VolumeError(Fault.BECOMING_READY)


def learn(blocks: int, block_bytes: int, identifier: bytes, done: Done) -> None:
    del blocks, block_bytes, identifier
    done(None)


class Served:
    """A unit on a device, and a host that has heard all that there was to hear."""

    def __init__(self, *, unready: VolumeError | None = None) -> None:
        self.volume = MemoryVolume(64)
        self.volume.unready = unready
        self.device = VirtualDevice("x", 1, c.NAA, [Region(1, self.volume, 0, learn, blocks=64)])
        units = Units(model.Config(version=2, state_directory="/state"))
        self.host = c.Host(TargetPort(), units.add(self.device, NOT_KEPT).logical_unit)

    def goes(self) -> None:
        self.volume.unready = AWAY
        self.device.refresh()

    def comes(self) -> str:
        self.volume.unready = None
        self.device.refresh()
        return self.host.send(c.TEST_UNIT_READY).outcome


def test_a_unit_that_comes_back_as_it_was_tells_nothing() -> None:
    served = Served()
    served.goes()
    assert served.comes() == "GOOD"


def test_a_unit_that_turns_out_to_be_thin_or_not_to_be_claimable_tells_its_hosts() -> None:
    served = Served(unready=AWAY)
    served.volume.deallocation = Deallocation(8)
    assert served.comes() == "06/3F/03"
    served.goes()
    assert served.comes() == "GOOD", "once"
    served.goes()
    served.volume.claimable = False
    assert served.comes() == "06/3F/03"
    assert served.host.send(c.TEST_UNIT_READY).outcome == "GOOD"


def test_traffic_is_that_of_every_unit_on_one_of_the_same_devices_and_of_no_other() -> None:
    shared, other = MemoryVolume(64), MemoryVolume(64)
    units = Units(model.Config(version=2, state_directory="/state"))
    hosts = []
    for number, (volume, first) in enumerate([(shared, 0), (shared, 32), (other, 0)], 1):
        naa = bytes([number]) * 16
        device = VirtualDevice(str(number), number, naa, [Region(number, volume, first, learn, blocks=32)])
        hosts.append(c.Host(TargetPort(), units.add(device, NOT_KEPT).logical_unit))
    count = units.traffic([bytes([1]) * 16, bytes([9]) * 16])  # one is gone
    seen = []
    for host in hosts:
        for cdb in (c.TEST_UNIT_READY, c.TEST_UNIT_READY):  # the first one tells of the power on
            host.send(cdb)
        assert host.send(READ_ONE_BLOCK).outcome == "GOOD"
        seen.append(count())
    assert seen == [1, 2, 2]
