#!/bin/sh
# Starts nginx, and makes it load its configuration again, without losing a request, when "balanza init" or "balanza
# certificates" has written another version of it. A version that nginx rejects is one line in the log, and nginx goes on
# with the one that it has.
set -eu
file=/secrets/version.conf

# written: the version of the files, from the line "return 200 VERSION;", read without another process.
written() {
  read -r _ _ version <"$file" && version=${version%;}
}

# loaded: nginx answers the version that is written.
loaded() {
  [ "$(curl -s --max-time 2 http://127.0.0.1:8080/version)" = "$version" ]
}

# await_loaded fails after ten seconds: the workers that end may answer the last version for a moment.
await_loaded() {
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    sleep 1
    ! loaded || return 0
  done
  return 1
}

error() {
  printf 'nginx: version %s of the configuration is not loaded, the one before goes on: %s\n' "$version" "$1" >&2
}

follow() {
  while sleep 2; do
    written && [ "$version" != "$seen" ] || continue
    seen=$version
    if loaded; then
      continue # a rejected change was taken back
    elif ! problem=$(nginx -q -t 2>&1); then
      error "$(printf %s "$problem" | tr '\n' ' ')"
    elif ! { kill -HUP 1 && await_loaded; }; then
      error "nginx does not answer with it"
    fi
  done
}

# The version is read before nginx reads its files: a change in between is loaded twice rather than never.
written
seen=$version
follow &
exec nginx -g 'daemon off;'
