#!/usr/bin/env bash
# Requests the unlocking of a customer with RabbitMQ's HTTP API, and prints the outcome: publish.sh CUSTOMER_ID
# Needs curl, jq, and a RabbitMQ user with the tag "management". MANAGEMENT_URL is the address of the management page,
# without user and password [default: port 15672 of AMQP_URL's host].
# This is for scripts. A service should use an AMQP connection.
set -euo pipefail
customer_id=$1
timeout=30 # seconds

# amqp://USER:PASSWORD@HOST:PORT/VHOST
rest=${AMQP_URL#*://}
user=${rest%%@*} rest=${rest#*@}
host=${rest%%/*} vhost=
case $rest in */*) vhost=${rest#*/} ;; esac
vhost=${vhost:-%2f}
api=${MANAGEMENT_URL:-http://${host%:*}:15672}
api=${api%/}/api

decoded() { printf '%b' "${1//%/\\x}"; }
hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
# call METHOD PATH [JSON]; curl reads the password from stdin, so that no process list shows it.
call() {
  local config
  config="user = $(printf '%s' "$(decoded "$user")" | jq -Rs .)"
  curl -sS --fail-with-body -K - -X "$1" -H 'content-type: application/json' ${3:+--data-binary "$3"} "$api/$2" <<<"$config"
}

# Store the id before you publish. If you do not know whether RabbitMQ has the request, send it again with this id.
id=$(hex 16)

# A queue for the outcome, bound before the request is published. It expires if this script is killed.
queue=unlock.shell.$id
call PUT "queues/$vhost/$queue" '{"durable":true,"arguments":{"x-expires":120000}}'
trap 'call DELETE "queues/$vhost/$queue"' EXIT
call POST "bindings/$vhost/e/trackfinity.unlock.results/q/$queue" '{"routing_key":"unlock.#"}'

# RabbitMQ publishes the request as mandatory and waits for the confirm. "routed": true means that both succeeded.
published=$(call POST "exchanges/$vhost/trackfinity.unlock/publish" "$(
  jq -cn --arg customer_id "$customer_id" --arg id "$id" --arg traceparent "00-$(hex 16)-$(hex 8)-01" '{
    routing_key: "request",
    payload: ({$customer_id} | tojson), payload_encoding: "string",
    properties: {message_id: $id, content_type: "application/json", delivery_mode: 2, headers: {$traceparent}}
  }'
)")
[ "$(jq .routed <<<"$published")" = true ] || { echo "not published: $published" >&2; exit 1; }
echo "published $id" >&2

while [ "$SECONDS" -lt "$timeout" ]; do
  got=$(call POST "queues/$vhost/$queue/get" '{"count":100,"ackmode":"ack_requeue_false","encoding":"auto"}')
  outcome=$(jq -c --arg id "$id" '.[].payload | fromjson | select(.request_id == $id)' <<<"$got")
  if [ -n "$outcome" ]; then
    echo "$outcome"
    [ "$(jq -r .status <<<"$outcome")" = unlocked ]
    exit
  fi
  sleep 0.5
done
echo "no outcome within $timeout s" >&2
exit 1
