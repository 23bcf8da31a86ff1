import asyncio, os
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitMessage, RabbitQueue

seen = set()  # in production a table
broker = RabbitBroker(os.environ["AMQP_URL"], default_channel=Channel(prefetch_count=10))
results = RabbitExchange("trackfinity.unlock.results", type=ExchangeType.TOPIC, declare=False)
queue = RabbitQueue(
    "trackfinity.outcomes.shop", queue_type=QueueType.QUORUM, durable=True, routing_key="unlock.#"
)


@broker.subscriber(queue, results, ack_policy=AckPolicy.NACK_ON_ERROR)
async def handle(outcome: dict, message: RabbitMessage):
    if message.message_id not in seen:
        print(outcome["request_id"], outcome["status"], flush=True)
        seen.add(message.message_id)


asyncio.run(FastStream(broker).run())
