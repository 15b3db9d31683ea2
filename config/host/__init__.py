"""annexhost, the host's tool: array commands sent over iSCSI or through a Linux disk."""
