#!/usr/bin/env bash
# Sends a request to the gateway with curl, waits, and prints the outcome: send.sh CUSTOMER_ID
# GATEWAY_URL is the gateway's address, such as http://127.0.0.1:8080; GATEWAY_TOKEN a token of one of its clients.
# Needs curl 7.71 or later, and jq. Exit code: 0 unlocked, 3 taken but its outcome is not known yet, 1 anything else.
set -euo pipefail
customer_id=$1

# One key for all attempts: a repeat with it does no harm. A service stores it with the reason for the request.
key=$(cat /proc/sys/kernel/random/uuid)
echo "key $key" >&2

# curl waits as long as Retry-After says, or ever longer without it. It repeats after 408, 429, 500, 502, 503 and 504,
# and, with --retry-all-errors, after a lost connection. Without --fail, it does not repeat after other answers.
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
status=$(curl --silent --show-error --output "$answer" --write-out '%{http_code}' \
  --retry 8 --retry-all-errors --retry-max-time 300 --max-time 40 \
  --header 'content-type: application/json' \
  --header "idempotency-key: \"$key\"" \
  --header 'prefer: wait=30' \
  --header @<(printf '%s' "${GATEWAY_TOKEN:+authorization: Bearer $GATEWAY_TOKEN}") \
  --data "$(jq -cn --arg customer_id "$customer_id" '{$customer_id}')" \
  "$GATEWAY_URL/v1/unlocks")

case $status in
  200)
    cat "$answer"
    echo
    jq -e '.status == "unlocked"' "$answer" >/dev/null
    ;;
  202)
    echo "taken; its outcome is not known yet" >&2
    cat "$answer"
    echo
    exit 3
    ;;
  *)
    echo "answered $status: $(cat "$answer")" >&2
    exit 1
    ;;
esac
