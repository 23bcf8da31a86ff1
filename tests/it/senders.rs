//! Senders that use other client libraries as these come, with no more than exchange and key.

use kit::{Answer, Context, Process, Program};
use serde_json::json;

use crate::{
    libraries::install,
    world::{SOON, World},
};

/// What kombu makes of a dict, a text, bytes, and with each of its ways to say gzip.
const KOMBU: &str = r#"
import os
from kombu import Connection, Exchange

exchange = Exchange("trackfinity.unlock", "direct", no_declare=True)
with Connection(os.environ["AMQP_URL"], transport_options={"confirm_publish": True}) as connection:
    producer = connection.Producer(exchange=exchange, routing_key="request")
    producer.publish({"customer_id": 1}, message_id="dict")
    producer.publish('{"customer_id": 1}', message_id="text")
    producer.publish(b'{"customer_id": 1}', message_id="bytes")
    producer.publish({"customer_id": 1}, message_id="gzip", compression="gzip")
    producer.publish({"customer_id": 1}, message_id="zlib", compression="zlib")
"#;

/// A request with a reply queue that aio-pika named, and the reply.
const AIO_PIKA: &str = r#"
import asyncio, json, os
import aio_pika

async def main():
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    async with connection:
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        exchange = await channel.get_exchange("trackfinity.unlock", ensure=False)
        message = aio_pika.Message(b'{"customer_id": 1}', message_id="aio", reply_to=replies.name)
        await exchange.publish(message, routing_key="request")
        async with replies.iterator(timeout=30) as iterator:
            async for reply in iterator:
                async with reply.process():
                    print(json.dumps({"queue": replies.name, "outcome": json.loads(reply.body)}))
                break

asyncio.run(main())
"#;

/// Runs a script to its end, with the libraries of docs/libraries.md.
async fn run(ctx: &Context, script: &str) -> Process {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/libraries/.venv/bin/python");
    let sender = ctx.start(&Program::new(python).args(["-c", script]).env("AMQP_URL", ctx.amqp_url()));
    assert!(sender.wait_exit(SOON).await.success(), "{:#?}", sender.stderr());
    sender
}

#[test]
fn what_kombu_sends_by_default_is_unlocked() {
    kit::run_within(SOON * 10, async |ctx| {
        install(&ctx, "libraries-python").await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        run(&world.ctx, KOMBU).await;
        for (request_id, outcome) in world.outcomes(5).await {
            assert_eq!(outcome["status"], "unlocked", "{request_id}: {outcome}");
        }
        world.stop().await;
    });
}

#[test]
fn the_exclusive_reply_queue_of_aio_pika_gets_a_copy() {
    kit::run_within(SOON * 10, async |ctx| {
        install(&ctx, "libraries-python").await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let sender = run(&world.ctx, AIO_PIKA).await;
        let reply: serde_json::Value =
            serde_json::from_str(sender.stdout().first().expect("a line")).expect("JSON");
        let queue = reply["queue"].as_str().expect("a name");
        assert!(queue.starts_with("amq_"), "{queue}");
        assert_eq!(reply["outcome"]["request_id"], json!("aio"));
        world.stop().await;
    });
}
