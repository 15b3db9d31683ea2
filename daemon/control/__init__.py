"""The control API: what admins, their shell and their scripts ask of a running annexd, as HTTP and JSON."""
