#!/usr/bin/env bash
# An application beside sumu, for a shell: answers every message, and prints who comes and goes.
#
# usage: app.sh [BROKERS]        needs: kcat, jq

set -euo pipefail
brokers=${1:-127.0.0.1:9092}

kcat -b "$brokers" -q -u -J -G example-kcat -X auto.offset.reset=earliest sumu.messages.send sumu.presence |
  while IFS= read -r record; do
    jq -r 'if .topic == "sumu.presence" then "presence: \(.key) \(.payload | fromjson.message.status)"
           else "message from \(.key): \(.payload)" end' <<<"$record"
    jq -r 'select(.topic == "sumu.messages.send")
           | "\(.key)\t\({users: [.key], data: {from: "kcat", heard: .payload | fromjson}} | tojson)"' <<<"$record" |
      kcat -b "$brokers" -q -P -K $'\t' -t sumu.notifications
  done
