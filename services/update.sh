#!/bin/sh
# Puts the present source and configuration into the running Compose stack without losing a request, and checks it: each
# server runs the new image, nginx the new configuration, and as many containers run as before.
#
#   sh services/update.sh
#
# Otherwise the exit status is 1, the reason is on standard error, and what could not be replaced goes on serving.
#
# "docker compose up" would replace all containers of a service at once, and no container may control the Docker engine
# and so do this from inside.
set -eu
cd "$(dirname "$0")/.."

compose() { docker compose --profile '*' "$@"; }
log() { printf 'update: %s\n' "$*"; }
fail() {
  printf 'update: %s\n' "$*" >&2
  exit 1
}

# containers SERVICE: the ids of its containers that were not stopped.
containers() { compose ps --quiet --status running --status restarting --status paused "$1"; }

# await_healthy CONTAINER: fails when it is unhealthy, or not yet healthy after a minute.
await_healthy() {
  for _ in $(seq 60); do
    case $(docker inspect -f '{{.State.Health.Status}}' "$1" 2>/dev/null) in
      healthy) return 0 ;;
      unhealthy) return 1 ;;
    esac
    sleep 1
  done
  return 1
}

# nginx looks the names up every second: two seconds after a container became healthy, or ended, nginx knows.
await_dns() { sleep 2; }

# check_configuration lets the new "init" write into volumes of a project of its own, and a new nginx read them: a fault is
# found before anything in the running stack changes.
check_configuration() {
  log "checking the new configuration"
  remove_check # of an update that was killed
  check run --build --no-deps --no-TTY --name "$project-check" init >/dev/null || fail "init fails; nothing was changed"
  nginx=$(compose ps --all --quiet nginx)
  [ -z "$nginx" ] ||
    docker run --rm --network none --volumes-from "$project-check" "$(docker inspect -f '{{.Config.Image}}' "$nginx")" nginx -t -q ||
    fail "nginx refuses its new configuration; nothing was changed"
  remove_check
}
check() { compose --project-name "$project-check" --progress quiet "$@"; }
remove_check() { check down --remove-orphans --volumes --rmi local >/dev/null 2>&1 || true; }

# A stand-in that is left would go on getting requests, so it is also removed when the script ends early.
stand_in=
remove_stand_in() {
  [ -z "$stand_in" ] || docker rm --force "$stand_in" >/dev/null
  stand_in=
}
trap 'remove_stand_in; remove_check' EXIT
trap 'exit 1' HUP INT TERM

# replace SERVICE: its containers, one at a time, by as many. A new one can't publish the port of the old one beside it, so
# a stand-in without ports, under the same name in Docker's DNS, serves meanwhile.
replace() {
  old=$(containers "$1")
  [ -n "$old" ] || return 0
  number=$(printf '%s\n' "$old" | wc -l)
  log "$1: replacing $((number))"
  compose rm --force "$1" >/dev/null 2>&1 # stopped ones: Compose would start them again, with the old image
  stand_in=$(compose run --detach --no-deps --use-aliases --no-TTY --label balanza.stand-in="$1" "$1") ||
    fail "$1: the new image does not start; the old one goes on serving"
  if ! await_healthy "$stand_in"; then
    docker logs --tail 5 "$stand_in" >&2
    fail "$1: the new image does not get healthy; the old one goes on serving"
  fi
  await_dns
  for container in $old; do
    docker stop --timeout 40 "$container" >/dev/null
    docker rm "$container" >/dev/null
    compose up --detach --no-deps --no-build --no-recreate --scale "$1=$((number))" "$1" || fail "$1: its new container does not start"
    for new in $(containers "$1"); do
      case $old in
        *"$new"*) ;;
        *) await_healthy "$new" || fail "$1: the new container $(docker inspect -f '{{.Name}}' "$new") does not get healthy" ;;
      esac
    done
  done
  await_dns
  docker stop --timeout 40 "$stand_in" >/dev/null
  remove_stand_in
}

# put_configuration runs the new init, and waits until nginx has loaded what it wrote.
put_configuration() {
  log "configuration"
  compose up --detach --no-deps --no-build --force-recreate init
  [ "$(docker wait "$(compose ps --all --quiet init)")" = 0 ] || fail "init fails: $(compose logs --no-log-prefix --tail 1 init)"
  for service in certificates prometheus; do # they read what init writes at their start only
    [ -z "$(containers $service)" ] || compose up --detach --no-deps --no-build --force-recreate $service
  done
  [ -z "$(containers nginx)" ] || compose exec --no-TTY nginx sh -c '
    for _ in $(seq 30); do
      [ "return 200 $(curl -s http://127.0.0.1:8080/version);" != "$(cat /secrets/version.conf)" ] || exit 0
      sleep 1
    done
    exit 1' || fail "nginx does not load the new configuration: $(compose logs --no-log-prefix --tail 1 nginx)"
}

# verify compares a service's containers with what Compose would create now.
verify() {
  wanted=$(compose config --hash "$1")
  for container in $(containers "$1"); do
    name=$(docker inspect -f '{{.Name}}' "$container")
    image=$(docker inspect -f '{{.Config.Image}}' "$container")
    [ "$(docker inspect -f '{{.Image}}' "$container")" = "$(docker image inspect -f '{{.Id}}' "$image")" ] ||
      fail "${name#/} does not run the image that $image is now; docker compose up --detach $1 replaces it, with a pause"
    [ "$1 $(docker inspect -f '{{index .Config.Labels "com.docker.compose.config-hash"}}' "$container")" = "$wanted" ] ||
      fail "${name#/} has other settings than its service; docker compose up --detach $1 replaces it, with a pause"
  done
}

# census: a line with the number of containers for each service that runs.
census() { compose ps --status running --status restarting --status paused --format '{{.Service}}' | sort | uniq -c; }

project=$(compose config --format json | sed -n 's/^  "name": "\(.*\)",$/\1/p')
before=$(census)
[ -n "$before" ] || fail "nothing of the project $project runs: docker compose up starts it, docker compose ls shows other projects"
left=$(docker ps --all --quiet --filter "label=com.docker.compose.project=$project" --filter label=balanza.stand-in)
[ -z "$left" ] || fail "another update is running, or was killed and left a stand-in; docker rm --force $left removes it"
compose build || fail "the images can't be built; nothing was changed"
check_configuration
for service in cluster fork replica; do
  replace $service
done
put_configuration
for service in $(compose config --services); do
  verify "$service"
done
[ "$(census)" = "$before" ] || fail "other containers run than before:
$before
and now:
$(census)"
log "done"
