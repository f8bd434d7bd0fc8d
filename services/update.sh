#!/bin/sh
# Puts the present source into the running stack without losing a request: builds, then replaces fork, cluster and the
# replicas, one container at a time.
#
#   sh services/update.sh
#
# "docker compose up" would replace all of them at once, and nothing inside a container may command the engine.
set -eu
cd "$(dirname "$0")/.."

compose() { docker compose --profile cluster "$@"; }
say() { printf 'update: %s\n' "$*"; }

# nginx asks Docker's DNS every second: what is healthy now, it knows in two.
noticed() { sleep 2; }

# healthy CONTAINER: waits at most a minute
healthy() {
  for _ in $(seq 60); do
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$1" 2>/dev/null)" = healthy ] && return 0
    sleep 1
  done
  return 1
}

# dismiss removes the stand-in, also when this ends early.
stand_in=
dismiss() {
  [ -z "$stand_in" ] || docker rm --force "$stand_in" >/dev/null
  stand_in=
}
trap dismiss EXIT
trap 'exit 1' INT TERM

# A published port can't be held twice, so a second container without one, found by the same name, stands in meanwhile.
replace() {
  say "$1"
  stand_in=$(compose run --detach --no-deps --use-aliases --no-TTY "$1")
  if ! healthy "$stand_in"; then
    docker logs --tail 5 "$stand_in"
    say "$1: the new image does not get healthy; the old one goes on serving"
    exit 1
  fi
  noticed
  compose up --detach --no-deps --no-build --force-recreate --wait --quiet-pull "$1"
  noticed
  docker stop --timeout 40 "$stand_in" >/dev/null
  dismiss
}

# Of the replicas there are others: one at a time is stopped, and made again from the new image.
replace_replicas() {
  old=$(compose ps --quiet replica)
  for container in $old; do
    say "replica $(docker inspect -f '{{.Name}}' "$container")"
    docker stop --timeout 40 "$container" >/dev/null
    docker rm "$container" >/dev/null
    # shellcheck disable=SC2086 # one word each
    compose up --detach --no-deps --no-build --no-recreate --wait --scale replica="$(set -- $old && echo $#)" replica
    noticed
  done
}

compose build
replace cluster
replace fork
replace_replicas
say "done"
