"""The persisted configuration, the admin's shell and the host's tool."""
