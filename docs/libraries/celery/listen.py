import os
from celery import Celery, bootsteps
from kombu import Consumer, Exchange, Queue

seen = set()  # in production a table
results = Exchange("trackfinity.unlock.results", no_declare=True)
queue = Queue(
    "trackfinity.outcomes.shop", results, routing_key="unlock.#", queue_arguments={"x-queue-type": "quorum"}
)


class Outcomes(bootsteps.ConsumerStep):
    def get_consumers(self, channel):
        return [Consumer(channel, queues=[queue], callbacks=[self.handle], accept=["json"])]

    def handle(self, outcome, message):
        if message.properties["message_id"] not in seen:
            print(f"{outcome['request_id']} {outcome['status']}")
            seen.add(message.properties["message_id"])
        message.ack()


app = Celery(broker=os.environ["AMQP_URL"])
app.steps["consumer"].add(Outcomes)
