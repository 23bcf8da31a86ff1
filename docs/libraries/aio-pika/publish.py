import asyncio, json, os, sys
from aio_pika import DeliveryMode, Message, connect_robust


async def main(request_id, customer_id):
    connection = await connect_robust(os.environ["AMQP_URL"])
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange("trackfinity.unlock", ensure=False)
        request = Message(
            json.dumps({"customer_id": customer_id}).encode(),
            message_id=request_id, content_type="application/json", delivery_mode=DeliveryMode.PERSISTENT,
        )  # fmt: skip
        await exchange.publish(request, routing_key="request", mandatory=True, timeout=30)
    print(f"published {request_id}")


asyncio.run(main(*sys.argv[1:]))
