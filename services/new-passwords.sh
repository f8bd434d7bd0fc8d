#!/bin/sh
# Gives Compose's MongoDB new passwords and keeps its data: after the volume "secrets" was lost, or when somebody else may
# know the passwords. It may be run at any time, and again after a failure.
#
#   sh services/new-passwords.sh
#
# MongoDB is stopped for some seconds, in which requests that need it get 503. Accounts and their sessions are data of
# MongoDB and stay.
set -eu
cd "$(dirname "$0")/.."

compose() { docker compose --profile cluster "$@"; }
log() { printf 'new-passwords: %s\n' "$*"; }

report_failure() {
  [ "$?" = 0 ] || log "failed; MongoDB may be stopped, and not know the passwords: mend the cause and run this again"
}
trap report_failure EXIT
trap 'exit 1' INT TERM

# set_root_password CONTAINER: starts MongoDB without authentication on the container's volumes, where nobody else reaches
# it, as MongoDB's manual has it for a lost password. "docker compose run" would put it on a network.
set_root_password() {
  docker run --rm --init --network none --no-healthcheck --user 999:999 --read-only --tmpfs /tmp --env HOME=/tmp \
    --cap-drop ALL --security-opt no-new-privileges --volumes-from "$1" "$(docker inspect --format '{{.Image}}' "$1")" \
    sh -euc '
      mongod --dbpath /data/db --bind_ip 127.0.0.1 --nounixsocket >/tmp/log 2>&1 &
      until mongosh --quiet --norc --eval 1 >/tmp/attempt 2>&1; do
        kill -0 $! 2>/dev/null || { tail -n 20 /tmp/log; exit 1; }
        sleep 1
      done
      mongosh --quiet --norc --eval "load(\"/etc/mongo/users.js\"); setUser(\"root\")"
      kill $!
      wait $!'
}

running=$(compose ps --quiet --status running fork cluster replica mongo)
log "stops MongoDB"
compose stop mongo
log "writes new passwords"
compose run --rm --no-deps --no-TTY --env BALANZA_NEW_PASSWORDS=true init
compose up --no-start --no-deps --no-build --quiet-pull --scale mongo=1 mongo
log "gives the database root's new password"
set_root_password "$(compose ps --all --quiet mongo)"
if [ -z "$running" ]; then
  log 'done; start the stack with "docker compose up"'
  exit
fi
log "starts MongoDB, whose health check gives the database the application's new password"
compose up --detach --no-deps --no-build --wait mongo
for container in $(compose ps --quiet --status running fork cluster replica); do
  log "reloads $(docker inspect --format '{{.Name}}' "$container")"
  docker exec "$container" balanza reload
done
log "done"
