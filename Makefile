# Shortcuts. Whatever a gate needs is in ./test.sh, which calls nothing of this.
.PHONY: compiled setup lint fmt test test-all bench demo wheel requirements dependencies install uninstall man completion docs

PYTHON = .venv/bin/python
PIP_TOOLS = pip-tools==7.6.2

setup:
	./test.sh --setup-only

# What annexd loads instead of the data path's .py files while these are the same.
compiled: setup
	$(PYTHON) scripts/compile.py

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

fmt: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# The quick ones, for while you type; ./test.sh is what every change has to pass; test-all runs the long ones as well,
# as continuous integration does.
test: setup
	$(PYTHON) -m pytest -m "not slow and not interop"

test-all:
	./test.sh -m '' --numprocesses 0

bench: setup
	$(PYTHON) -m bench

demo:
	./demo.sh

# From the programs' own help texts, for `make install`.
man: setup
	$(PYTHON) scripts/man.py build/man

completion: setup
	$(PYTHON) scripts/completion.py build/completion

# What of docs/ is made from tables of the code.
docs: setup
	$(PYTHON) scripts/man.py --docs
	$(PYTHON) scripts/events.py

wheel: setup
	$(PYTHON) -m hatchling build -t wheel

# Into $(DESTDIR)$(prefix): docs/install.md. `make dependencies` is what needs the network and a compiler.
prefix = /usr/local
dependencies:
	scripts/install.sh prepare

install: dependencies
	prefix='$(prefix)' DESTDIR='$(DESTDIR)' scripts/install.sh install

uninstall:
	prefix='$(prefix)' DESTDIR='$(DESTDIR)' scripts/install.sh uninstall

# Pins the newest versions that requirements/*.in admit, in the order in which they constrain each other. It runs in
# an environment of its own, with build.txt in it, since source packages must be prepared to know what they need.
requirements:
	/usr/bin/python3 -m venv --clear build/requirements
	build/requirements/bin/python -m pip install --quiet -r requirements/build.txt
	build/requirements/bin/python -m pip install --quiet $(PIP_TOOLS)
	for name in run build host shell test; do \
	    build/requirements/bin/pip-compile --quiet --upgrade --strip-extras --generate-hashes --allow-unsafe \
	        --no-build-isolation --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	        --output-file requirements/$$name.txt requirements/$$name.in || exit 1; \
	done
