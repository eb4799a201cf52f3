#!/bin/sh
# The compose stack by one command each.
# Usage: deploy/stack.sh up [SERVICE...] | load | down | compose ARGUMENT...
#   up: build, start, wait until healthy; load: drive both daemons, results into $RESULTS;
#   down: remove containers, networks and volumes; compose: anything else, with the same settings
set -eu
case ${RESULTS:-/} in /*) ;; *) RESULTS=$PWD/$RESULTS ;; esac # as whoever typed it meant it
cd "$(dirname "$0")"

say() { echo "stack: $*" >&2; }
die() { say "$*"; exit 1; }

command -v docker >/dev/null || die "needs Docker: the docker command was not found"
engine=$(docker version --format '{{.Server.Version}}' 2>/dev/null) ||
  die "no Docker engine answers; start it, or add yourself to those who may use it (docker version)"
if docker compose version >/dev/null 2>&1; then
  compose() { docker compose "$@"; }
elif command -v docker-compose >/dev/null; then
  compose() { docker-compose "$@"; }
else
  die "needs Compose: docker compose (the v2 plugin) or docker-compose 1.29"
fi
if [ "${engine%%.*}" -lt 23 ]; then # moby before 23 knows no CAP_BPF; the prefix keeps the two apart
  say "Docker $engine is older than 23: the probe gets SYS_ADMIN in place of BPF and PERFMON"
  export ETLT_PROBE_CAP_1=SYS_ADMIN ETLT_PROBE_CAP_2=CAP_SYS_ADMIN
  export ETLT_PROBE_STATS="${ETLT_PROBE_STATS:-true}" # which needs no more than that
fi
: "${ETLT_COMMIT:=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)}"
export ETLT_COMMIT

PATIENCE_SECONDS=120
: "${RESULTS:=$(dirname "$PWD")/report/stack}"

health() { # health ID: healthy, starting, unhealthy; running or exited where there is no check
  docker inspect --format \
    '{{if and .State.Running .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$1"
}

wait_until_healthy() { # `up --wait` is v2 alone, and gives up at the first restart
  until=$(($(date +%s) + PATIENCE_SECONDS))
  while :; do
    waiting=
    for service in $(compose config --services | grep -v '^loadclient-'); do
      for id in $(compose ps -aq "$service"); do
        state=$(health "$id")
        [ "$state" = healthy ] || [ "$state" = running ] || waiting="$waiting $service:$state"
      done
    done
    [ -n "$waiting" ] || return 0
    [ "$(date +%s)" -lt "$until" ] || break
    sleep 1
  done
  for one in $waiting; do
    say "$one after $PATIENCE_SECONDS s; it says:"
    compose logs --tail 5 "${one%%:*}" >&2
  done
  return 1
}

up() {
  compose up -d --build "$@"
  wait_until_healthy
  say "the ET against LT board: http://127.0.0.1:${GRAFANA_PORT:-3000}   Prometheus: http://127.0.0.1:${PROMETHEUS_PORT:-9090}"
}

load() {
  : "${RUN_ID:=$(date +%Y%m%d-%H%M%S)}"
  export RUN_ID
  compose --profile load up -d loadclient-lt loadclient-et
  worst=0
  mkdir -p "$RESULTS"
  for mode in lt et; do
    id=$(compose --profile load ps -aq "loadclient-$mode")
    status=$(docker wait "$id")
    docker logs "$id"
    if docker cp "$id:/results/$RUN_ID-$mode.json" "$RESULTS" >/dev/null; then
      say "$RESULTS/$RUN_ID-$mode.json"
    else
      say "loadclient-$mode left no result"
    fi
    [ "$status" = 0 ] || say "loadclient-$mode ended with status $status"
    [ "$status" -le "$worst" ] || worst=$status
  done
  return "$worst"
}

case ${1:-} in
  up) shift; up "$@" ;;
  load) load ;;
  down) compose --profile load down --volumes --remove-orphans ;;
  compose) shift; compose "$@" ;;
  *) echo "stack: '${1:-}' is not a command; it must be up, load, down or compose" >&2; exit 2 ;;
esac
