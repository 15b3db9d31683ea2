"""annexcli, the shell with which an admin sees and changes a running annexd."""
