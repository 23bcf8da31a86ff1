"""Asks for a customer to be unlocked, and prints the outcome: publish.py CUSTOMER_ID"""

import json
import os
import sys
import uuid

import pika
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider

REPLIES = "amq.rabbitmq.reply-to"  # RabbitMQ's own: the outcome comes back on this channel
TIMEOUT = 30  # seconds


def ask(body, content_type: str, message_id: str) -> dict:
    """Publishes a request, and waits for its outcome."""
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    channel.confirm_delivery()  # from now on basic_publish raises if the request was not taken

    outcomes = []
    # RabbitMQ wants the consumer first, then the request that names it.
    channel.basic_consume(REPLIES, lambda _channel, _method, _properties, reply: outcomes.append(reply), auto_ack=True)

    headers = {}
    propagate.inject(headers)  # traceparent, from the span under way
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
        # It may still come: who must know binds a queue of its own, see listen.py.
        raise TimeoutError(f"no outcome within {TIMEOUT} s")
    return json.loads(outcomes[0])


def main(customer_id: str) -> int:
    trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("unlock-example")
    with tracer.start_as_current_span("publish trackfinity.unlock", kind=trace.SpanKind.PRODUCER):
        body = json.dumps({"customer_id": customer_id})
        # Keep the id with what it is for, and send the same one again after a doubt: repeats can be told by it.
        outcome = ask(body, "application/json", message_id=str(uuid.uuid4()))
    print(json.dumps(outcome))
    return 0 if outcome["status"] == "unlocked" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
