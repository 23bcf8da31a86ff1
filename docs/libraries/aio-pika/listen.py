import asyncio, json, os
from aio_pika import connect_robust


async def main():
    seen = set()  # in production a table
    connection = await connect_robust(os.environ["AMQP_URL"])
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=10)
    arguments = {"x-queue-type": "quorum"}
    queue = await channel.declare_queue("trackfinity.outcomes.shop", durable=True, arguments=arguments)
    await queue.bind("trackfinity.unlock.results", "unlock.#")
    async with queue.iterator() as messages:
        async for message in messages:
            if message.message_id not in seen:
                outcome = json.loads(message.body)
                print(outcome["request_id"], outcome["status"], flush=True)
                seen.add(message.message_id)
            await message.ack()


asyncio.run(main())
