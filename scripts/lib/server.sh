# shellcheck shell=bash
# Runs one Java server on loopback, for tests. Sourced by scripts/kafka and scripts/cassandra, which set
#
#   NAME VERSION         what it is
#   JARS                 Maven coordinates, group:artifact:version each
#   PORT OTHER_PORTS     the port that clients use, and the rest
#   STARTED              what the log says once the server has started
#   prepare              a function: writes the configuration into $DIR and sets JAVA_ARGS
#   serves               a function: whether the server answers its clients
#
# Everything of an instance is in $DIR. The jars are fetched once, into the user's cache.

set -euo pipefail

HOST=127.0.0.1
START_LIMIT=180 # seconds
STOP_LIMIT=30   # seconds, then SIGKILL
SECRET=sumu-secret # of the test user, and of the key store

say() { printf '%s: %s\n' "${NAME,,}" "$*"; }
die() { printf '%s: %s\n' "${NAME,,}" "$*" >&2; exit 1; }

# Prints the comment at the top of the script.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }

# Takes the words after the command: options of every server, then `option` of this one.
read_options() {
  DIR= FRESH=
  while [ $# -gt 0 ]; do
    case $1 in
      --fresh) FRESH=yes; shift ;;
      --port) PORT=${2:?--port wants a number}; shift 2 ;;
      --dir) DIR=${2:?--dir wants a folder}; shift 2 ;;
      *) local taken=0; option "$@" || taken=$?; [ "$taken" -gt 0 ] || usage; shift "$taken" ;;
    esac
  done
  [[ $PORT =~ ^[0-9]+$ ]] || die "--port wants a number, not $PORT"
  DIR=$(realpath -m "${DIR:-${TMPDIR:-/tmp}/sumu-servers-$(id -u)/${NAME,,}-$PORT}")
  [[ $DIR != *[[:space:]]* ]] || die "--dir must hold no white space: $DIR"
  LOG=$DIR/server.log
  MARK=-Dsumu.test.server=$DIR # on the command line: tells our process from any other
}

run_command() {
  case $1 in
    fetch) fetch && printf '%s\n' "$JAR_DIR" ;;
    start) start ;;
    stop) stop ;;
    status) status ;;
    *) usage ;;
  esac
}

# Prints the process id of this instance, or fails. A pid file left behind counts for nothing.
pid() {
  local found
  found=$(cat "$DIR/pid" 2>/dev/null) && [ -n "$found" ] || return 1
  ps -ww -o args= -p "$found" 2>/dev/null | grep -qF -- "$MARK " && printf '%s\n' "$found"
}

# Whether a process exists and is no zombie.
alive() { case $(ps -o stat= -p "$1" 2>/dev/null) in '' | Z*) return 1 ;; esac; }

port_taken() { (exec 3<>"/dev/tcp/$HOST/$1") 2>/dev/null; }

# Sends a request (a printf format) to the client port; prints the first $2 bytes of the reply in hex.
ask() {
  {
    exec 3<>"/dev/tcp/$HOST/$PORT" || return 0
    # shellcheck disable=SC2059 # the request is a format
    printf "$1" >&3
    timeout 3 head -c "$2" <&3 | od -An -v -tx1 | tr -d ' \n'
  } 2>/dev/null 3>&- || true
}

# Fetches the jars into a temporary folder, renamed when complete: an interrupted or concurrent run leaves
# no half.
fetch() {
  JAR_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/sumu/servers/${NAME,,}-$VERSION
  [ ! -d "$JAR_DIR" ] || return 0
  command -v mvn >/dev/null || die "needs Maven (mvn), to fetch $NAME $VERSION"
  say "fetching $NAME $VERSION from Maven Central" >&2
  mkdir -p "$(dirname "$JAR_DIR")"
  local part jar
  part=$(mktemp -d "$JAR_DIR.XXXXXX")
  {
    printf '<project><modelVersion>4.0.0</modelVersion><groupId>sumu</groupId>'
    printf '<artifactId>%s</artifactId><version>1</version><dependencies>' "${NAME,,}"
    for jar in "${JARS[@]}"; do
      IFS=: read -r group artifact version <<<"$jar"
      printf '<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>' \
        "$group" "$artifact" "$version"
    done
    printf '</dependencies></project>\n'
  } >"$part/pom.xml"
  if ! mvn -q -B -Dstyle.color=never -f "$part/pom.xml" -DincludeScope=runtime -DoutputDirectory="$part" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies >"$part/mvn.log" 2>&1; then
    tail -n 20 "$part/mvn.log" >&2
    rm -rf "$part"
    die "Maven could not fetch $NAME $VERSION"
  fi
  mv -T "$part" "$JAR_DIR" 2>/dev/null || rm -rf "$part" # another run was first
  [ -d "$JAR_DIR" ] || die "could not create $JAR_DIR"
}

find_java() {
  JAVA=${JAVA_HOME:+$JAVA_HOME/bin/}java
  command -v "$JAVA" >/dev/null || die "needs Java 17 (java, or JAVA_HOME)"
}

# Makes an authority (ca.pem) and a server certificate of 127.0.0.1 and localhost (server.p12) in $DIR, once.
make_certificates() {
  [ ! -e "$DIR/server.p12" ] || return 0
  command -v openssl >/dev/null || die "needs openssl, to make certificates"
  (
    cd "$DIR"
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
    openssl req -x509 "${key[@]}" -days 30 -subj '/CN=sumu test authority' -keyout ca.key -out ca.pem
    openssl req "${key[@]}" -subj '/CN=localhost' -keyout server.key -out server.csr
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -out server.pem \
      -extfile <(printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
    openssl pkcs12 -export -inkey server.key -in server.pem -certfile ca.pem -passout "pass:$SECRET" -out new.p12
    mv new.p12 server.p12
  ) >"$DIR/openssl.log" 2>&1 || { tail -n 20 "$DIR/openssl.log" >&2; die "openssl could not make certificates"; }
}

start() {
  mkdir -p "$DIR"
  # A second start of the same instance waits for the first, then finds it running.
  exec 9>"$DIR/lock"
  flock -w "$START_LIMIT" 9 || die "another start is under way in $DIR"
  local started port
  if started=$(pid); then
    [ -z "$FRESH" ] || die "pid $started is running: stop it before a fresh start"
    await "$started"
    say "already running: pid $started, $HOST:$PORT"
    return
  fi
  for port in "$PORT" "${OTHER_PORTS[@]}"; do
    ! port_taken "$port" || die "port $port is taken by another process"
  done
  find_java
  fetch
  [ -z "$FRESH" ] || rm -rf "$DIR/data"
  rm -rf "$DIR/tmp"
  mkdir -p "$DIR/data" "$DIR/tmp"
  prepare
  cd "$DIR" # where a crashing JVM leaves its report
  setsid nohup "$JAVA" "$MARK" -Djava.awt.headless=true -Djava.net.preferIPv4Stack=true \
    -Djava.io.tmpdir="$DIR/tmp" -XX:+UseG1GC -XX:+ExitOnOutOfMemoryError -XX:TieredStopAtLevel=1 \
    -cp "$JAR_DIR/*" "${JAVA_ARGS[@]}" >"$LOG" 2>&1 </dev/null 9>&- &
  started=$!
  printf '%s\n' "$started" >"$DIR/pid"
  await "$started"
  say "started $NAME $VERSION: pid $started, $HOST:$PORT, folder $DIR"
}

# Waits until the server with this pid serves.
await() {
  local deadline=$((SECONDS + START_LIMIT))
  until grep -qs "$STARTED" "$LOG" && serves; do
    if ! alive "$1"; then
      tail -n 30 "$LOG" >&2
      die "$NAME ended while starting, see $LOG"
    elif [ "$SECONDS" -ge "$deadline" ]; then
      tail -n 30 "$LOG" >&2
      stop
      die "no answer from $NAME within $START_LIMIT s, see $LOG"
    fi
    sleep 0.2
  done
}

stop() {
  local running deadline=$((SECONDS + STOP_LIMIT))
  running=$(pid) || { say "not running ($DIR)"; return 0; }
  kill "$running"
  while alive "$running"; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      say "pid $running does not end: killing it"
      kill -9 "$running" 2>/dev/null || true
      break
    fi
    sleep 0.1
  done
  rm -f "$DIR/pid"
  say "stopped pid $running"
}

status() {
  local running
  running=$(pid) || { say "not running ($DIR)"; exit 3; }
  serves || { say "pid $running does not answer on $HOST:$PORT, see $LOG"; exit 1; }
  say "running: pid $running, $HOST:$PORT, $(($(ps -o rss= -p "$running") / 1024)) MiB, folder $DIR"
}
