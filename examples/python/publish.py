"""Requests the unlocking of a customer, and prints the outcome: publish.py CUSTOMER_ID"""

import json
import os
import sys
import uuid

import pika
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider

REPLIES = "amq.rabbitmq.reply-to"  # direct reply-to: RabbitMQ sends the outcome back on this channel
TIMEOUT = 30  # seconds


def ask(body, content_type: str, message_id: str) -> dict:
    """Publishes a request and waits for its outcome."""
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    channel.confirm_delivery()  # basic_publish now raises an error if the request was not stored

    outcomes = []
    # Direct reply-to: consume first, then publish the request that names this queue.
    channel.basic_consume(REPLIES, lambda _channel, _method, _properties, reply: outcomes.append(reply), auto_ack=True)

    headers = {}
    propagate.inject(headers)  # traceparent, from the current span
    channel.basic_publish(
        exchange="trackfinity.unlock",
        routing_key="request",
        body=body,
        properties=pika.BasicProperties(
            message_id=message_id,
            content_type=content_type,
            delivery_mode=pika.DeliveryMode.Persistent.value,
            reply_to=REPLIES,
            headers=headers,
        ),
        mandatory=True,
    )
    print(f"published {message_id}", file=sys.stderr)

    connection.process_data_events(time_limit=TIMEOUT)
    connection.close()
    if not outcomes:
        # It may still come. If you must not miss it, bind a durable queue, as listen.py does.
        raise TimeoutError(f"no outcome within {TIMEOUT} s")
    return json.loads(outcomes[0])


def main(customer_id: str) -> int:
    trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("unlock-example")
    with tracer.start_as_current_span("publish trackfinity.unlock", kind=trace.SpanKind.PRODUCER):
        body = json.dumps({"customer_id": customer_id})
        # Store the id before you publish. If you do not know whether RabbitMQ has the request, repeat it with this id.
        outcome = ask(body, "application/json", message_id=str(uuid.uuid4()))
    print(json.dumps(outcome))
    return 0 if outcome["status"] == "unlocked" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
