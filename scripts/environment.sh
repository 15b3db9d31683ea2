# shellcheck shell=sh
# The environment that annex is developed, tested and shown in: Debian packages and .venv.
# Sourced by ./test.sh and ./demo.sh from the root of the checkout, under `set -eu`; it changes no other state of
# the machine. The second time it finds everything in place and takes well under a second.

# Package by package, since a bare Debian 12 has almost none of them.
ANNEX_DEBIAN_PACKAGES="
    ca-certificates python3 python3-venv
    python3-dev gcc libc6-dev pkg-config libiscsi-dev
    libiscsi-bin qemu-utils qemu-block-extra tgt
    iproute2 util-linux mount procps curl openssl strace
    groff-base
    make systemd systemd-container debootstrap
    prometheus
    user-mode-linux open-iscsi kmod udev fio sg3-utils multipath-tools e2fsprogs xfsprogs btrfs-progs
"
# Why each line is there:       pip and a venv need the first;
#                               the second compiles the data path, and cython-iscsi and cython-sgio, which are
#                               published as source only;
#                               the third is the peers of the tests, two initiators and an array;
#                               the fourth has ip, losetup, flock, ps, curl, strace: what tests, demo and pages use;
#                               the fifth reads the man pages for mistakes;
#                               the sixth installs annex in a machine that systemd has booted: a container of
#                               systemd-nspawn over a root made by debootstrap;
#                               the seventh has promtool, which checks the metrics and the alert rules;
#                               the last is a Linux kernel that runs as a process, and what tests run on it: it is a
#                               host of annexd, with an initiator, a disk driver, multipath and file systems of its own.

ANNEX_PYTHON=/usr/bin/python3   # Debian's own: whatever else is first in PATH may be any version

annex_say() { printf 'set-up: %s\n' "$*"; }

annex_fail() {
    printf 'set-up: %s\n' "$*" >&2
    exit 1
}

annex_as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        annex_fail "this must run as root, or with sudo installed: $*"
    fi
}

annex_missing_packages() {
    for annex_package in $ANNEX_DEBIAN_PACKAGES; do
        annex_status=$(dpkg-query -W -f='${db:Status-Status}' "$annex_package" 2>/dev/null || true)
        [ "$annex_status" = installed ] || printf '%s ' "$annex_package"
    done
}

annex_apt() {
    annex_as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}

# Installing tgt starts its service, on the port that hosts expect a target on and open to the whole network.
# The tests start a tgtd of their own; Debian's policy-rc.d is the documented way to say "install, do not start".
annex_install_without_starting_services() (
    annex_policy=/usr/sbin/policy-rc.d
    if [ ! -e "$annex_policy" ]; then
        trap 'annex_as_root rm -f "$annex_policy"' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' | annex_as_root tee "$annex_policy" >/dev/null
        annex_as_root chmod 0755 "$annex_policy"
    fi
    annex_apt install --yes --no-install-recommends "$@"
)

annex_debian_packages() {
    command -v dpkg-query >/dev/null || annex_fail "this set-up is for Debian 12; it found no dpkg"
    annex_missing=$(annex_missing_packages)
    [ -n "$annex_missing" ] || return 0
    annex_say "installing Debian packages: $annex_missing"
    annex_apt update
    # shellcheck disable=SC2086  # a list of words
    annex_install_without_starting_services $annex_missing
    # A package, and a service of it.
    for annex_pair in tgt:tgt prometheus:prometheus \
        open-iscsi:open-iscsi open-iscsi:iscsid multipath-tools:multipath-tools; do
        case " $annex_missing" in
        *" ${annex_pair%:*} "*)
            # The package was not here before, so nobody wants its service at the next boot either.
            annex_as_root update-rc.d "${annex_pair#*:}" disable
            ;;
        esac
    done
}

# What .venv was made from. Its path is part of it, since a venv does not survive being moved. The number is that of
# the recipe in annex_venv_make: count it up with a change there.
annex_venv_key() {
    {
        echo 1
        pwd -P
        "$ANNEX_PYTHON" --version
        cat requirements/*.txt
    } | sha256sum | cut -d ' ' -f 1
}

annex_venv_make() {
    annex_say "making .venv with $("$ANNEX_PYTHON" --version) and the pinned packages of requirements/*.txt"
    "$ANNEX_PYTHON" -m venv --clear .venv
    annex_pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet --require-hashes"
    $annex_pip -r requirements/build.txt
    # Not from pip's cache: a wheel that lies there may have been compiled by another Cython than build.txt's.
    $annex_pip --no-build-isolation --no-cache-dir \
        -r requirements/run.txt -r requirements/host.txt -r requirements/shell.txt -r requirements/test.txt
    # cython-iscsi installs its own tests as the top-level package "tests", which would hide ours from `import tests`.
    rm -rf .venv/lib/python3.*/site-packages/tests
}

annex_venv() {
    annex_key=$(annex_venv_key)
    # Two runs in one checkout must not both make it.
    exec 9>.venv.lock
    flock 9
    if [ "$(cat .venv/made-from 2>/dev/null || true)" != "$annex_key" ]; then
        annex_venv_make
        # Written last: a set-up that was cut off starts again from the beginning.
        printf '%s\n' "$annex_key" >.venv/made-from
        annex_say "done: $(.venv/bin/python -m pip list --format=freeze 2>/dev/null | wc -l) packages in .venv"
    fi
    exec 9>&-
}

# The data path, compiled from its .py files; in a checkout whose files differ from it annexd does without.
annex_compiled() {
    .venv/bin/python scripts/compile.py --check && return 0
    annex_say "compiling the data path (a minute)"
    .venv/bin/python scripts/compile.py
}

annex_environment() {
    annex_debian_packages
    annex_venv
    annex_compiled
}
