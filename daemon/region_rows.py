"""The regions of a configuration, as the mapping table and the external arrays name them."""

from __future__ import annotations

from backends.mapping import RegionRow
from config import model


def region_rows(config: model.Config, wanted: model.VirtualDevice) -> list[RegionRow]:
    """Give the rows that the mapping table is to have for a virtual device."""
    paths = {device.name: device.path for device in config.devices}
    return [
        RegionRow(
            kind="local" if region.device is not None else "external",
            device=region.device or "",
            path=paths.get(region.device or "", ""),
            array=region.array or "",
            lun=region.lun or 0,
            first_lba=region.first_lba,
            wanted_blocks=region.blocks or 0,
            id=(region.id or "").lower(),
        )
        for region in wanted.regions
    ]


def raw_lun(lun: int) -> bytes:
    """Give the 8 bytes of a LUN. Spec: SAM-5 4.7.7.1 peripheral device addressing, 4.7.7.2 flat space addressing."""
    first = lun if lun < 256 else 0x4000 | lun
    return first.to_bytes(2, "big") + bytes(6)
