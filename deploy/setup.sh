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

unpack_prometheus() { # the programs, not the service that the package would start
  command -v apt-get >/dev/null || return 1
  folder=$(mktemp -d)
  say "unpacking prometheus and promtool from Debian's package into .venv (tests of metrics and boards)"
  (cd "$folder" && apt-get -qq download prometheus >/dev/null 2>&1 && dpkg-deb -x ./*.deb .) &&
    install "$folder/usr/bin/prometheus" "$folder/usr/bin/promtool" .venv/bin/
  status=$?
  rm -rf "$folder"
  return $status
}

unpack_prometheus_3() { # the next major, from the Debian after the next; its lists stay in a folder of their own
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -r "$keys" ] && command -v apt-get >/dev/null || return 1
  folder=$(mktemp -d)
  say "unpacking Prometheus 3 from Debian forky's packages into .venv (boards and rules on both majors)"
  mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
  echo "deb [signed-by=$keys] http://deb.debian.org/debian forky main" >"$folder/sources.list"
  (
    cd "$folder"
    set -- -qq -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null \
      -o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache" -o Acquire::Languages=none \
      -o Acquire::Check-Valid-Until=false -o Acquire::Retries=2
    timeout 180 apt-get "$@" update && timeout 180 apt-get "$@" download prometheus promtool &&
      for package in ./*.deb; do dpkg-deb -x "$package" . || exit 1; done &&
      usr/bin/prometheus --version | grep -q "version 3"
  ) >/dev/null 2>&1 &&
    install "$folder/usr/bin/prometheus" .venv/bin/prometheus-3 &&
    install "$folder/usr/bin/promtool" .venv/bin/promtool-3
  status=$?
  rm -rf "$folder"
  return $status
}

unpack_nats_server() { # the program, not the service that the package would start
  command -v apt-get >/dev/null || return 1
  folder=$(mktemp -d)
  say "unpacking nats-server from Debian's package into .venv (tests of the bus between instances)"
  (
    cd "$folder"
    apt-get -qq download nats-server >/dev/null 2>&1 || {
      [ "$(id -u)" = 0 ] && apt-get -qq update >/dev/null && apt-get -qq download nats-server >/dev/null 2>&1
    } && dpkg-deb -x ./*.deb .
  ) && install "$folder/usr/sbin/nats-server" .venv/bin/
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

has_bcc() { .venv/bin/python -c 'import bcc; bcc.BPF' 2>/dev/null; } # PyPI's bcc has no BPF

if ! has_bcc; then
  apt_install "the kernel's witness (eBPF probe)" python3-bpfcc ||
    say "going on without the eBPF probe"
  has_bcc || say "the eBPF probe will not run: .venv is of $("$python" --version) and does not find" \
    "BCC; it must be made of the /usr/bin/python3 that python3-bpfcc belongs to, without PyPI's bcc"
fi
if [ "$kind" = dev ]; then
  [ -x .venv/bin/promtool ] && [ -x .venv/bin/prometheus ] || unpack_prometheus ||
    say "tests that need prometheus or promtool will be skipped"
  command -v nats-server >/dev/null || [ -x .venv/bin/nats-server ] || unpack_nats_server ||
    say "tests of the bus between instances will be skipped"
  [ -x .venv/bin/promtool-3 ] || unpack_prometheus_3 ||
    say "boards and rules will be tested on one major of Prometheus only"
  command -v chromium >/dev/null || apt_install "a browser for the report's and the boards' tests" chromium ||
    say "tests that open a browser will be skipped"
  { command -v node && command -v npm; } >/dev/null || apt_install "drawing the boards" nodejs npm ||
    say "tests that draw the boards will be skipped"
  command -v strace >/dev/null || apt_install "a second count of system calls" strace ||
    say "tests that compare with strace will be skipped"
  command -v nc >/dev/null || apt_install "a client that everybody has" netcat-openbsd ||
    say "tests that talk by nc will be skipped"
  command -v systemd-socket-activate >/dev/null || apt_install "socket activation tests" systemd ||
    say "tests that need systemd-socket-activate will be skipped"
fi
