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

name=setup
. deploy/common.sh

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

find_python
if [ ! -x .venv/bin/python ]; then
  say "creating .venv with $("$python" --version)"
  "$python" -m venv --system-site-packages .venv
fi
install_python_packages .venv "$lock" -e

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
