#!/bin/sh
# Sends each outcome in a queue as a webhook, until the receiver has answered 2xx. Only then RabbitMQ removes it.
# amqp-consume is in Debian's amqp-tools. Let systemd or Kubernetes start this again when it ends.
set -eu
exec amqp-consume --server "$RABBITMQ_HOST" --port "$RABBITMQ_PORT" --vhost "$RABBITMQ_VHOST" \
  --authfile "$RABBITMQ_LOGIN" --queue "$OUTCOMES_QUEUE" --prefetch-count 1 -- \
  curl --silent --show-error --output /dev/null --max-time 30 \
    --fail --retry 1000000 --retry-all-errors \
    --header 'content-type: application/json' --header "@$WEBHOOK_HEADERS" \
    --data-binary @- "$WEBHOOK_URL"
