import asyncio, os, sys
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange

broker = RabbitBroker(os.environ["AMQP_URL"], default_channel=Channel(on_return_raises=True))
exchange = RabbitExchange("trackfinity.unlock", declare=False)


async def main(request_id, customer_id):
    async with broker:
        await broker.publish(
            {"customer_id": customer_id}, exchange=exchange, routing_key="request",
            message_id=request_id, persist=True, mandatory=True, timeout=30,
        )  # fmt: skip
    print(f"published {request_id}")


asyncio.run(main(*sys.argv[1:]))
