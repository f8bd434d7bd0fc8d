#!/bin/sh
# Puts the present source into the running Compose stack without losing a request: builds the images, then replaces
# fork, cluster and the replicas, one container at a time.
#
#   sh services/update.sh
#
# "docker compose up" would replace all containers of a service at once, and no container may control the Docker engine
# and so do this from inside.
set -eu
cd "$(dirname "$0")/.."

compose() { docker compose --profile cluster "$@"; }
log() { printf 'update: %s\n' "$*"; }

# nginx looks the names up every second: two seconds after a container became healthy, or ended, nginx knows.
await_dns() { sleep 2; }

# await_healthy CONTAINER: fails when the container is not healthy after a minute.
await_healthy() {
  for _ in $(seq 60); do
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$1" 2>/dev/null)" = healthy ] && return 0
    sleep 1
  done
  return 1
}

# remove_stand_in also runs when the script ends early: a stand-in that is left would go on getting requests.
stand_in=
remove_stand_in() {
  [ -z "$stand_in" ] || docker rm --force "$stand_in" >/dev/null
  stand_in=
}
trap remove_stand_in EXIT
trap 'exit 1' INT TERM

# replace SERVICE: two containers can't publish the same port, so a second one without ports, under the same name in
# Docker's DNS, serves while the first is replaced.
replace() {
  log "$1"
  stand_in=$(compose run --detach --no-deps --use-aliases --no-TTY "$1")
  if ! await_healthy "$stand_in"; then
    docker logs --tail 5 "$stand_in"
    log "$1: the new image does not get healthy; the old one goes on serving"
    exit 1
  fi
  await_dns
  compose up --detach --no-deps --no-build --force-recreate --wait --quiet-pull "$1"
  await_dns
  docker stop --timeout 40 "$stand_in" >/dev/null
  remove_stand_in
}

# The replicas need no stand-in: one at a time is stopped and created again from the new image, while the others serve.
replace_replicas() {
  old=$(compose ps --quiet replica)
  for container in $old; do
    log "replica $(docker inspect -f '{{.Name}}' "$container")"
    docker stop --timeout 40 "$container" >/dev/null
    docker rm "$container" >/dev/null
    # shellcheck disable=SC2086 # $old is split into one word for each replica
    compose up --detach --no-deps --no-build --no-recreate --wait --scale replica="$(set -- $old && echo $#)" replica
    await_dns
  done
}

compose build
replace cluster
replace fork
replace_replicas
log "done"
