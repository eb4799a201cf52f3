#!/bin/sh
# Install what the tests of the containers need on a bare Debian, as root: engine, compose, mmdebstrap.
# Starts nothing: the tests start an engine of their own if none answers. A machine that has them is
# left as it is.
set -eu
say() { echo "install-engine: $*" >&2; }
apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq "$@"; }

missing=
command -v docker >/dev/null || missing="$missing docker.io"
command -v dockerd >/dev/null || docker version >/dev/null 2>&1 || missing="$missing docker.io"
command -v mmdebstrap >/dev/null || missing="$missing mmdebstrap"
command -v iptables >/dev/null || missing="$missing iptables"
command -v ip >/dev/null || missing="$missing iproute2"
if [ -n "$missing" ]; then
  [ "$(id -u)" = 0 ] || { say "needs$missing: sudo apt-get install$missing"; exit 1; }
  command -v apt-get >/dev/null || { say "needs$missing, and there is no apt-get"; exit 1; }
  say "installing$missing by apt"
  # A policy that forbids starting: what the package starts would outlive the tests.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' > $policy && chmod +x $policy
    trap 'rm -f $policy' EXIT
  fi
  apt update && apt install -y --no-install-recommends $missing >/dev/null
fi
docker compose version >/dev/null 2>&1 || docker-compose version >/dev/null 2>&1 || {
  # Debian 12 has Compose 1 alone. Compose 2 is one static program in the next Debian's package: it is
  # unpacked, not installed, so that no other package of that release comes with it.
  say "unpacking the docker compose plugin from Debian 13's docker-compose"
  plugins=/usr/local/lib/docker/cli-plugins
  folder=$(mktemp -d)
  cd "$folder"
  mkdir -p lists/partial cache/archives/partial
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
    "http://deb.debian.org/debian trixie main" > sources.list
  here="-o Dir::Etc::sourcelist=$folder/sources.list -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root"
  here="$here -o Dir::State::lists=$folder/lists -o Dir::Cache=$folder/cache"
  # shellcheck disable=SC2086 # options, to be split
  apt $here update && apt $here download docker-compose
  dpkg-deb -x docker-compose_*.deb .
  mkdir -p $plugins
  install usr/libexec/docker/cli-plugins/docker-compose $plugins/
  cd /
  rm -rf "$folder"
}
