"""Where bytes live: devices, external arrays, regions, virtual devices, pairs and acquisitions."""
