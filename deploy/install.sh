#!/bin/sh
# Install the daemon, the load client and the probe for systemd, or take them away again.
# Usage: deploy/install.sh [install] [--sockets | --own-ports] [--without-probe] [--with-bus]
#        deploy/install.sh uninstall [--purge]
#   --sockets        systemd holds the ports and the daemons get no network of their own
#   --own-ports      the daemons open their ports; without either it stays as it is, at first so
#   --without-probe  no etlt-probe.service, no python3-bpfcc
#   --with-bus       what etltd's --bus needs, too; it stays so in upgrades
#   --purge          remove the configuration in /etc/etlt, too
# Running it again upgrades; what runs goes on until it is restarted. Starts and enables nothing.
set -eu
cd "$(dirname "$0")/.."
name=install
. deploy/common.sh

PREFIX=/opt/etlt                     # as in the units' ExecStart= and ExecPaths=
CONFIG=/etc/etlt
UNITS=/usr/local/lib/systemd/system  # /etc/systemd/system is for the administrator's own drop-ins
COMMANDS="etltd loadclient etlt-probe"
SOCKETS_DROP_IN=$UNITS/etltd@.service.d/socket-activated.conf

main() {
  parse "$@"
  [ "$(id -u)" = 0 ] || { say "needs root: sudo deploy/install.sh $*"; exit 1; }
  umask 022 # what is installed is read by users that systemd makes up
  case $action in
    install) install_all ;;
    uninstall) uninstall_all ;;
  esac
}

parse() {
  action=install sockets=as-it-is probe=yes purge=no bus=as-it-is
  case ${1:-} in
    install | uninstall) action=$1; shift ;;
  esac
  for option; do
    case $action$option in
      install--sockets) sockets=yes ;;
      install--own-ports) sockets=no ;;
      install--without-probe) probe=no ;;
      install--with-bus) bus=yes ;;
      uninstall--purge) purge=yes ;;
      *--help | *-h) sed -n '2,/^set/ { /^#/ s/^# //p }' deploy/install.sh; exit 0 ;;
      install*) refuse "$option" "install takes --sockets, --own-ports, --without-probe and --with-bus" ;;
      uninstall*) refuse "$option" "uninstall takes --purge" ;;
    esac
  done
}

refuse() { say "'$1' is not an option here: $2"; exit 2; }

manager_runs() { [ -d /run/systemd/system ]; }

reload() {
  if manager_runs; then
    systemctl daemon-reload
  else
    say "systemd does not run here: the units are in place and nothing was reloaded"
  fi
}

# -- install ---------------------------------------------------------------------------------------

install_all() {
  make_environment
  for command in $COMMANDS; do
    link_command "$command"
  done
  [ $probe = no ] || install_bcc
  install_units
  install_config
  reload
  say "done. Start the daemon: systemctl enable --now etltd@et$([ $sockets = no ] || echo .socket)"
  [ $probe = no ] || say "Start the probe: systemctl enable --now etlt-probe"
  say "The options are in $CONFIG, the manual in deploy/systemd/README.md"
}

make_environment() {
  find_python
  case $(readlink -f "$(command -v "$python")") in
    /usr/*) ;;
    *) say "$python is outside /usr, where the units may not run anything"; exit 1 ;;
  esac
  if ! "$PREFIX/bin/python" -c '' 2>/dev/null; then # none yet, or its Python is gone
    say "creating $PREFIX with $("$python" --version)"
    "$python" -m venv --clear --system-site-packages "$PREFIX"
  fi
  lock=requirements.lock
  if [ $bus = yes ] || "$PREFIX/bin/python" -c 'import nats' 2>/dev/null; then
    lock=requirements-bus.lock
  fi
  install_python_packages "$PREFIX" "$lock" --force-reinstall
}

link_command() { # into the PATH, unless something else has that name there
  link=/usr/local/bin/$1
  if [ -e "$link" ] && [ "$(readlink "$link")" != "$PREFIX/bin/$1" ]; then
    say "$link is not ours and stays; ours is $PREFIX/bin/$1"
  else
    ln -sfn "$PREFIX/bin/$1" "$link"
  fi
}

install_bcc() {
  "$PREFIX/bin/python" -c 'import bcc' 2>/dev/null ||
    apt_install "the kernel's witness (eBPF probe)" python3-bpfcc ||
    say "etlt-probe.service will not start without it"
}

shipped_units() { # the paths of all units and drop-ins, below deploy/systemd
  (cd deploy/systemd && ls -d -- *.service *.socket *.socket.d/*.conf)
}

install_units() {
  say "installing units into $UNITS"
  for unit in $(shipped_units); do
    [ "$probe$unit" = noetlt-probe.service ] ||
      install -D -m 644 "deploy/systemd/$unit" "$UNITS/$unit"
  done
  [ $probe = yes ] || rm -f "$UNITS/etlt-probe.service"
  if [ $sockets = as-it-is ]; then # an upgrade must not open the sandbox of what runs behind sockets
    if [ -e "$SOCKETS_DROP_IN" ]; then sockets=yes; else sockets=no; fi
  fi
  if [ $sockets = yes ]; then
    install -D -m 644 deploy/systemd/socket-activated.conf "$SOCKETS_DROP_IN"
  else
    remove_sockets_drop_in
  fi
}

install_config() {
  for file in deploy/systemd/config/*.toml; do
    target=$CONFIG/$(basename "$file")
    if [ -e "$target" ]; then
      say "$target stays as it is"
    else
      say "installing $target"
      install -D -m 644 "$file" "$target"
    fi
  done
}

# -- uninstall -------------------------------------------------------------------------------------

uninstall_all() {
  stop_all
  say "removing the units from $UNITS, the commands and $PREFIX"
  remove_sockets_drop_in
  for unit in $(shipped_units); do
    rm -f "$UNITS/$unit"
    rmdir "$(dirname "$UNITS/$unit")" 2>/dev/null || true # only what is empty by now
  done
  rmdir "$UNITS" "${UNITS%/*}" 2>/dev/null || true
  for command in $COMMANDS; do
    [ "$(readlink "/usr/local/bin/$command")" != "$PREFIX/bin/$command" ] ||
      rm "/usr/local/bin/$command"
  done
  rm -rf "$PREFIX"
  if [ $purge = yes ]; then
    say "removing $CONFIG"
    rm -rf "$CONFIG"
  elif [ -d "$CONFIG" ]; then
    say "$CONFIG stays (--purge removes it)"
  fi
  reload
}

stop_all() {
  units="etltd-loops.socket etltd-loop@*.service etlt-probe.service"
  for mode in lt et; do # the sockets first: one that listens would start its daemon again
    units="etltd@$mode.socket etltd-metrics@$mode.socket etltd@$mode.service $units"
  done
  if manager_runs; then
    say "stopping what runs"
    # shellcheck disable=SC2086 # a list of words
    systemctl stop $units 2>/dev/null || true # some were never there
  fi
  if command -v systemctl >/dev/null; then
    # shellcheck disable=SC2086
    systemctl disable $(echo "$units" | tr -d '*') >/dev/null 2>&1 || true
  fi
}

remove_sockets_drop_in() {
  rm -f "$SOCKETS_DROP_IN"
  rmdir "$(dirname "$SOCKETS_DROP_IN")" 2>/dev/null || true
}

main "$@"
