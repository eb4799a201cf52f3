#!/bin/sh
# Make .venv/ with the locked dependencies and the commands in it.
# Usage: deploy/setup.sh run|report|dev
#   run: what `make demo` needs; report: what draws comparisons, too; dev: tests and linters, too
# Installs Debian packages only as root, and says what it installs; otherwise says what to type.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-run}
case $kind in
  run) lock=requirements.lock ;;
  report) lock=requirements-report.lock ;;
  dev) lock=requirements-dev.lock ;;
  *) echo "setup: '$kind' is not a kind of set-up; it must be run, report or dev" >&2; exit 2 ;;
esac

say() { echo "setup: $*" >&2; }

apt_install() { # apt_install PURPOSE PACKAGE...: as root on Debian/Ubuntu, else what to type
  purpose=$1; shift
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $* by apt ($purpose)"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
      { apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1; } ||
      { say "apt-get could not install $*"; return 1; }
  else
    say "$purpose needs $*: sudo apt-get install $*"
    return 1
  fi
}

unpack_promtool() { # the one program, not the Prometheus service that its package would start
  command -v apt-get >/dev/null || return 1
  folder=$(mktemp -d)
  say "unpacking promtool from Debian's prometheus package into .venv (checks of /metrics)"
  (cd "$folder" && apt-get -qq download prometheus >/dev/null 2>&1 && dpkg-deb -x ./*.deb .) &&
    install "$folder/usr/bin/promtool" .venv/bin/
  status=$?
  rm -rf "$folder"
  return $status
}

# The system's Python comes first: Debian's BCC bindings (python3-bpfcc) belong to it.
python=
for candidate in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate; break
  fi
done
if [ -z "$python" ]; then
  apt_install "Python 3.11 or newer" python3 python3-venv
  python=/usr/bin/python3
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  apt_install "a virtual environment" python3-venv
fi

if [ ! -x .venv/bin/python ]; then
  say "creating .venv with $("$python" --version)"
  "$python" -m venv --system-site-packages .venv
fi
say "installing $lock into .venv"
.venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r "$lock"
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps -e .

if ! .venv/bin/python -c 'import bcc' 2>/dev/null; then
  apt_install "the kernel's witness (eBPF probe)" python3-bpfcc ||
    say "going on without the eBPF probe"
fi
if [ "$kind" = dev ]; then
  command -v promtool >/dev/null || [ -x .venv/bin/promtool ] || unpack_promtool ||
    say "tests that need promtool will be skipped"
  command -v chromium >/dev/null || apt_install "a browser for the report's tests" chromium ||
    say "tests that open the report in a browser will be skipped"
  command -v strace >/dev/null || apt_install "a second count of system calls" strace ||
    say "tests that compare with strace will be skipped"
  command -v nc >/dev/null || apt_install "a client that everybody has" netcat-openbsd ||
    say "tests that talk by nc will be skipped"
  command -v systemd-socket-activate >/dev/null || apt_install "socket activation tests" systemd ||
    say "tests that need systemd-socket-activate will be skipped"
fi
