"""Handles every refused request exactly once, until it is stopped: listen.py [DATABASE]

The queue belongs to this service, and is durable: outcomes wait in it while the service does not run. Delivery is
at-least-once: the same outcome may come again (after a crash of the worker, of RabbitMQ, or of this program), always
with the same message_id. The database makes handling it idempotent.
"""

import json
import os
import sqlite3
import sys

import pika
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider

QUEUE = "shop.unlock-refused"


def open_database(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS seen (message_id TEXT PRIMARY KEY, handled TEXT)")
    return database


def main(path: str = "outcomes.sqlite") -> None:
    trace.set_tracer_provider(TracerProvider())  # your service adds its exporter here
    tracer = trace.get_tracer("unlock-example")
    database = open_database(path)
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind(QUEUE, "trackfinity.unlock.results", "unlock.refused")
    channel.basic_qos(prefetch_count=10)
    print(f"listening on {QUEUE}", file=sys.stderr, flush=True)

    for method, properties, body in channel.consume(QUEUE):
        # The trace began where the request was published. This span continues it.
        context = propagate.extract(properties.headers or {})
        with tracer.start_as_current_span(f"process {QUEUE}", context, kind=trace.SpanKind.CONSUMER) as span:
            with database:  # one transaction: handle the outcome, and record its message_id
                new = database.execute(
                    "INSERT OR IGNORE INTO seen VALUES (?, datetime())", (properties.message_id,)
                ).rowcount
                if new:
                    handle(json.loads(body), trace.format_trace_id(span.get_span_context().trace_id))
                else:
                    print(f"{properties.message_id} came again", flush=True)
        channel.basic_ack(method.delivery_tag)  # last: a crash would lose an outcome acknowledged earlier


def handle(outcome: dict, trace_id: str) -> None:
    """Put your own code here. Ignore fields that you do not know: later versions may add some."""
    request_id, reason, request = outcome["request_id"], outcome["reason"], outcome["request"]
    print(f"{request_id} was refused: {reason}, request {json.dumps(request)}, trace {trace_id}", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass
