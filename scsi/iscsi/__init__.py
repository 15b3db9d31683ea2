"""iSCSI (RFC 7143), target and initiator side, without any I/O."""
