#!/usr/bin/env bash
# Enforces the import rules of docs/architecture.md ("Packages"): prints each import that breaks one, and fails then.
set -euo pipefail
broken=0
complain() { printf 'import rule: %s imports %s\n' "$1" "$2"; broken=1; }

declare -A rooms=(
  [store]='' [limits]='' [hosts]='' [draw]='' [edge]='hosts limits' [watch]='workers/descendants' [logfile]='' [metrics]='' [provision]='hosts limits'
  [workers/control]='' [workers/share]='' [workers/descendants]='' [workers]='metrics workers/control workers/share workers/descendants'
  [instance]='workers workers/descendants' [serverfile]='workers'
  [eventlog]='store' [processes]='store' [store/sqlitestore]='store' [store/mongostore]='store' [store/storetest]='store eventlog' [chat]='store eventlog'
  [web]='store eventlog processes chat draw hosts limits metrics' [balanza]='.*'
)
declare -A owners=(
  [github.com/gofiber/]='web' [go.mongodb.org/mongo-driver]='store/mongostore' [modernc.org/sqlite]='store/sqlitestore'
  [github.com/kelseyhightower/envconfig]='balanza' [github.com/spf13/]='balanza'
  [github.com/goccy/go-yaml]='serverfile'
)
while read -r package imports; do
  room=${package#balanza/services/}
  [[ -v rooms[$room] ]] || { echo "import rule: $room is a room without a rule"; broken=1; continue; }
  for import in $imports; do
    if [[ $import == balanza/services/* ]]; then
      other=${import#balanza/services/}
      [[ $room == balanza || " ${rooms[$room]} " == *" $other "* ]] || complain "$room" "$other"
    fi
    for library in "${!owners[@]}"; do
      [[ $import != "$library"* || $room == "${owners[$library]}" ]] || complain "$room" "$import"
    done
  done
done < <(go list -f '{{.ImportPath}} {{join .Imports " "}}' ./services/...)
while read -r file; do complain "$file" "the environment (os.Getenv)"; done \
  < <(grep -rlE 'os\.(Getenv|LookupEnv|Environ)\(' services --include='*.go' --exclude='*_test.go' --exclude-dir=balanza --exclude-dir=workers --exclude-dir=storetest || true)
exit $broken
