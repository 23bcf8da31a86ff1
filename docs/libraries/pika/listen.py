import json, os
import pika

QUEUE, seen = "trackfinity.outcomes.shop", set()  # seen: in production a table
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
channel.queue_bind(QUEUE, "trackfinity.unlock.results", "unlock.#")
channel.basic_qos(prefetch_count=10)
for method, properties, body in channel.consume(QUEUE):
    if properties.message_id not in seen:
        outcome = json.loads(body)
        print(outcome["request_id"], outcome["status"], flush=True)
        seen.add(properties.message_id)
    channel.basic_ack(method.delivery_tag)
