"""SCSI (SAM, SPC, SBC) and the vendor array commands, without any I/O."""
