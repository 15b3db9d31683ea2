"""The persisted configuration, the admin's shell and the host's tool; also the one place of annex's version."""

__version__ = "0.1.0"
