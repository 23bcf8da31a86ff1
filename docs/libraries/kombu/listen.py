import os
from kombu import Connection, Exchange, Queue

seen = set()  # in production a table
results = Exchange("trackfinity.unlock.results", no_declare=True)
queue = Queue(
    "trackfinity.outcomes.shop", results, routing_key="unlock.#", queue_arguments={"x-queue-type": "quorum"}
)


def handle(outcome, message):
    if message.properties["message_id"] not in seen:
        print(outcome["request_id"], outcome["status"], flush=True)
        seen.add(message.properties["message_id"])
    message.ack()


with Connection(os.environ["AMQP_URL"], heartbeat=0) as connection:
    with connection.Consumer(queue, callbacks=[handle], accept=["json"], prefetch_count=10):
        while True:
            connection.drain_events()
