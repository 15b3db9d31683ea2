"""Speed of annex beside tgt, on the same storage, in one run: `python -m bench` (or `make bench`)."""
