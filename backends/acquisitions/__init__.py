"""Reads of external data in two commands: acquired as of one moment, handed over to who asked."""
