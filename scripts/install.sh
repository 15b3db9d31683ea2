#!/bin/sh
# Install annex, or take it away again: what `make install` and `make uninstall` run.
#
#   scripts/install.sh prepare      make all that is needed in build/: dependencies, compiled data path, man pages
#   scripts/install.sh install      put everything under $DESTDIR$prefix; needs no network, and writes nothing in build/
#   scripts/install.sh uninstall    remove what was put there; configuration and state stay
#
# From the environment: prefix (default /usr/local), and DESTDIR, for packages: with it, nothing of the running system
# is touched. systemd looks for units under /usr/local and /usr; with another prefix they are only put there.
set -eu
cd "$(dirname "$0")/.."

prefix=${prefix:-/usr/local}
DESTDIR=${DESTDIR:-} # unset and empty are alike
tree=$prefix/lib/annex
python=/usr/bin/python3 # the system's own: the compiled parts are for it, and it stays where it is
programs="annexd annexcli annexhost"
packages="backends config daemon scsi"

say() { printf 'install: %s\n' "$*"; }

fail() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}

# --- prepare ---

# Wheels of everything, made from what the hashes in requirements/*.txt allow and nothing else. Packages that come as
# source only are compiled here, so the place where annex is installed needs no compiler, and no pip.
prepared() {
    key=$({
        echo 2 # count it up with a change of what is done here
        "$python" --version
        cat requirements/*.txt
    } | sha256sum | cut -c 1-16)
    printf 'build/install/%s' "$key"
}

prepare() {
    folder=$(prepared)
    if [ ! -e "$folder/complete" ]; then
        say "fetching and building the pinned packages of requirements/*.txt"
        rm -rf "$folder"
        mkdir -p "$folder"
        "$python" -m venv "$folder/tools"
        pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 $folder/tools/bin/python -m pip --quiet"
        $pip install --require-hashes -r requirements/build.txt
        # Not from pip's cache: a wheel that lies there may have been compiled by another Cython than build.txt's.
        $pip wheel --require-hashes --no-build-isolation --no-cache-dir --wheel-dir "$folder/wheels" \
            -r requirements/run.txt -r requirements/shell.txt -r requirements/host.txt
        # What compiles the data path and makes the manual is pinned among what the tests need.
        $pip install --no-index --no-deps "$folder"/wheels/*.whl
        $pip install --require-hashes --no-build-isolation -r requirements/test.txt
        touch "$folder/complete"
    fi
    if ! "$folder/tools/bin/python" -B scripts/compile.py --check; then
        say "compiling the data path"
        "$folder/tools/bin/python" -B scripts/compile.py
    fi
    "$folder/tools/bin/python" -B scripts/man.py build/man
    "$folder/tools/bin/python" -B scripts/completion.py build/completion
}

# --- install ---

# What is made is written down, in the order in which it is made: uninstall removes exactly that.
record() { printf '%s\n' "$1" >>"$manifest"; }

put_folder() {
    [ -d "$DESTDIR$1" ] || {
        put_folder "$(dirname "$1")"
        mkdir -m 0755 "$DESTDIR$1"
        record "$1/"
    }
}

put() { # MODE FILE PLACE
    put_folder "$(dirname "$3")"
    install -m "$1" "$2" "$DESTDIR$3"
    record "$3"
}

# A file in which the prefix stands.
put_adapted() { # FILE PLACE
    put_folder "$(dirname "$2")"
    sed "s,/usr/local,$prefix,g" "$1" >"$DESTDIR$2"
    chmod 0644 "$DESTDIR$2"
    record "$2"
}

# A virtual environment, so that neither annex nor the system finds a version of the other's; made without pip, and
# without the programs that some of the packages bring along.
make_venv() {
    "$python" -m venv --without-pip "$1"
    "$folder/tools/bin/python" -m pip --quiet --disable-pip-version-check --python "$1/bin/python" install \
        --no-index --no-deps --no-compile "$folder"/wheels/*.whl
    # cython-iscsi brings its own tests as the top-level package "tests".
    rm -rf "$1"/lib/python3.*/site-packages/tests
    find "$1/bin" -mindepth 1 ! -name 'python*' -delete
    # It is moved to its place, and works there; only these would still say where it was made.
    sed -i '/^command = /d' "$1/pyvenv.cfg"
    rm -f "$1"/lib/python3.*/site-packages/*.dist-info/direct_url.json
}

make_tree() {
    mkdir -p "$1"
    tar -c --exclude=__pycache__ __main__.py $packages | tar -x --no-same-owner -C "$1"
    if "$folder/tools/bin/python" -B scripts/compile.py --check; then
        mkdir -p "$1/build"
        cp -r build/compiled "$1/build/compiled"
    else
        say "the data path is not compiled: annexd will run at half its speed; 'make dependencies' compiles it"
    fi
    make_venv "$1/venv"
    "$python" -m compileall -q -j 0 -s "$1" -p "$tree" "$1" || fail "a module does not compile"
    chmod -R u=rwX,go=rX "$1"
}

install_all() {
    folder=$(prepared)
    [ -e "$folder/complete" ] || fail "dependencies are missing: run 'make dependencies' first"
    old_manifest=$DESTDIR$tree/installed
    new=$DESTDIR$tree.new
    manifest=$(mktemp)
    trap 'rm -f "$manifest"' EXIT
    # An earlier version's folders stay on the list; its files that this one does not have go.
    if [ -e "$old_manifest" ]; then grep '/$' "$old_manifest" >"$manifest" || true; fi
    mkdir -p "$DESTDIR/"
    rm -rf "$new"
    put_folder "$(dirname "$tree")"
    make_tree "$new"
    for program in $programs; do
        if [ -e "bin/$program" ]; then put 0755 "bin/$program" "$prefix/bin/$program"; fi
    done
    for unit in annexd.service annexd.socket; do
        put_adapted "systemd/$unit" "$prefix/lib/systemd/system/$unit"
    done
    put 0644 systemd/annex.sysusers.conf "$prefix/lib/sysusers.d/annex.conf"
    put 0644 systemd/annex.tmpfiles.conf "$prefix/lib/tmpfiles.d/annex.conf"
    for file in monitoring/*; do
        put 0644 "$file" "$prefix/share/annex/$file"
    done
    for page in build/man/*.[1-8]; do
        if [ -e "$page" ]; then put 0644 "$page" "$prefix/share/man/man${page##*.}/${page##*/}"; fi
    done
    for completion in build/completion/*; do
        if [ -e "$completion" ]; then
            put 0644 "$completion" "$prefix/share/bash-completion/completions/${completion##*/}"
        fi
    done
    if [ -e "$old_manifest" ]; then
        grep -v '/$' "$old_manifest" | grep -vxF -f "$manifest" | while read -r gone; do
            rm -f "$DESTDIR$gone"
        done
    fi
    install -m 0644 "$manifest" "$new/installed"
    # As late and as short as can be: a daemon that runs has what it needs in memory.
    rm -rf "$DESTDIR$tree.old"
    if [ -e "$DESTDIR$tree" ]; then mv "$DESTDIR$tree" "$DESTDIR$tree.old"; fi
    mv "$new" "$DESTDIR$tree"
    rm -rf "$DESTDIR$tree.old"
    say "annex $("$python" -B -c 'import config; print(config.__version__)') is in $DESTDIR$tree"
    [ -n "$DESTDIR" ] || introduce
}

# Secrets once lay in annexd's folder. They move before tmpfiles.d gives that folder to annexd; and what does not prove to
# be root's own folder, once it lies where annexd can not reach it, is not used.
move_credentials() {
    old=/etc/annex/credentials
    new=/etc/annex-credentials
    if [ ! -d "$old" ] || [ -e "$new" ]; then return; fi
    mv -T "$old" "$new"
    if [ "$(stat -c '%F %u' "$new")" != "directory 0" ]; then
        mv -T "$new" "$new.refused"
        fail "$old was no folder of root's; it is $new.refused now: look at it, and install again"
    fi
    say "the CHAP secrets of $old are in $new now"
}

# Tell the system that it is there.
introduce() {
    if [ "$(id -u)" -ne 0 ] || ! command -v systemd-sysusers >/dev/null; then return; fi
    systemd-sysusers "$prefix/lib/sysusers.d/annex.conf"
    move_credentials
    systemd-tmpfiles --create "$prefix/lib/tmpfiles.d/annex.conf"
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        if systemctl --quiet is-active annexd.service; then
            say "annexd still runs the version before; systemctl restart annexd ends that"
        else
            say "systemctl enable --now annexd starts it"
        fi
    fi
}

# --- uninstall ---

uninstall_all() {
    manifest=$DESTDIR$tree/installed
    [ -e "$manifest" ] || fail "nothing is installed in $DESTDIR$tree"
    if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
        systemctl --quiet disable --now annexd.socket annexd.service || true
    fi
    grep -v '/$' "$manifest" | while read -r file; do rm -f "$DESTDIR$file"; done
    folders=$(grep '/$' "$manifest" | sort -ru || true)
    rm -rf "$DESTDIR$tree" "$DESTDIR$tree.old" "$DESTDIR$tree.new"
    for made in $folders; do
        rmdir --ignore-fail-on-non-empty "$DESTDIR$made" 2>/dev/null || true
    done
    if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    say "done; /etc/annex, /etc/annex-credentials, /var/lib/annex and the user annex are still there"
}

case ${1-} in
prepare) prepare ;;
install) install_all ;;
uninstall) uninstall_all ;;
*) fail "usage: $0 prepare|install|uninstall" ;;
esac
