//! The AMQP client that reads what lapin cannot, with a real RabbitMQ.

use std::time::Duration;

use kit::{AMQPValue, Context, FieldTable};
use trackfinity_unlocker::{
    broker::{
        ConnectError, Connector,
        browse::{Bounds, QueueBrowser},
        wire::{Confirm, WireConnection, WireError},
    },
    message::Properties,
    secret::Secret,
    settings::Broker,
};

use crate::{
    publisher::{quorum_queue, suspend},
    world::{SOON, id},
};

/// Properties with only a message id, which is not UTF-8.
pub const UNREADABLE: &[u8] = b"\x00\x80\x02\xff\xfe";

pub async fn connect(ctx: &Context, parameters: &str) -> WireConnection {
    connect_to(format!("{}{parameters}", ctx.amqp_url())).await.expect("a connection")
}

async fn connect_to(url: String) -> Result<WireConnection, ConnectError> {
    Connector::new(&Broker::with_url(Secret::fixed(url))).connect_wire("tests").await
}

/// Publishes a message whose properties are these bytes.
pub async fn publish_raw(ctx: &Context, queue: &str, properties: &[u8], body: &[u8]) {
    let connection = connect(ctx, "").await;
    let mut channel = connection.open_channel().await.expect("a channel");
    let confirm = channel.publish("", queue, properties, body).await.expect("a confirm");
    assert_eq!(confirm, Confirm::Published);
    connection.close().await;
}

fn is_unreadable(properties: &Properties) -> bool {
    matches!(properties, Properties::Unreadable(_))
}

#[test]
fn unreadable_messages_are_read_between_others_and_requeued_in_their_order() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        quorum_queue(&amqp, "q").await;
        amqp.publish("", "q", id("first"), b"1").await;
        publish_raw(&ctx, "q", UNREADABLE, b"2").await;
        amqp.publish("", "q", id("third"), &vec![b'3'; 300_000]).await;
        for round in 0..3 {
            let connection = connect(&ctx, "").await;
            let mut channel = connection.open_channel().await.expect("a channel");
            assert_eq!(channel.message_count("q").await, Ok(3));
            channel.qos(10).await.expect("qos");
            channel.consume("q", "c").await.expect("a consumer");
            let mut found = Vec::new();
            for _ in 0..3 {
                found.push(channel.next().await.expect("alive").expect("a delivery"));
            }
            let lengths: Vec<_> = found.iter().map(|delivery| delivery.body.len()).collect();
            assert_eq!(lengths, [1, 1, 300_000]);
            let unreadable: Vec<_> =
                found.iter().map(|delivery| is_unreadable(&delivery.properties)).collect();
            assert_eq!(unreadable, [false, true, false]);
            assert!(found.iter().all(|delivery| delivery.redelivered == (round > 0)));
            if round == 2 {
                channel.acknowledge(found[1].delivery_tag).await.expect("acknowledged");
            }
            channel.close().await.expect("closed");
            connection.close().await;
        }
        let remaining: Vec<_> = amqp.drain("q").await.into_iter().map(|message| message.body.len()).collect();
        assert_eq!(remaining, [1, 300_000]);
    });
}

#[test]
fn what_a_browse_has_acknowledged_does_not_come_back() {
    const COUNT: usize = 400;
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        quorum_queue(&amqp, "q").await;
        amqp.publish_all("", "q", (0..COUNT).map(|n| (id(&n.to_string()), b"{}".to_vec()))).await;
        kit::eventually("the messages", SOON, async || amqp.ready_count("q").await as usize == COUNT).await;
        let connection = connect(&ctx, "").await;
        let mut browser = QueueBrowser::open(&connection, "q", Bounds::DEFAULT).await.expect("a browse");
        let mut tags = Vec::new();
        while let Some(message) = browser.next().await.expect("alive") {
            tags.push(message.tag);
        }
        // While the queue is slow, RabbitMQ's channel keeps most of them back.
        browser.stop_taking().await.expect("alive");
        suspend(&ctx, "q", true).await;
        for tag in tags.iter().skip(1) {
            browser.acknowledge(*tag).await.expect("alive");
        }
        let (released, ()) = tokio::join!(browser.release(&connection), suspend(&ctx, "q", false));
        released.expect("alive");
        assert_eq!((tags.len(), amqp.ready_count("q").await), (COUNT, 1));
        connection.close().await;
    });
}

#[test]
fn a_copy_is_the_message_with_its_own_headers() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        amqp.declare_queue("q", FieldTable::default()).await;
        amqp.declare_queue("copies", FieldTable::default()).await;
        publish_raw(&ctx, "q", UNREADABLE, b"body").await;
        let connection = connect(&ctx, "").await;
        let mut channel = connection.open_channel().await.expect("a channel");
        channel.qos(1).await.expect("qos");
        channel.consume("q", "c").await.expect("a consumer");
        let delivery = channel.next().await.expect("alive").expect("a delivery");
        let Properties::Unreadable(raw) = &delivery.properties else { panic!("readable") };
        let status = ("unlocker-status", AMQPValue::LongString("invalid".into()));
        let copy = raw.copy(std::slice::from_ref(&status), 1000);
        let confirm = channel.publish("", "copies", &copy, &delivery.body).await;
        assert_eq!(confirm, Ok(Confirm::Published));
        assert_eq!(channel.publish("", "nowhere", &copy, b"").await, Ok(Confirm::Returned));
        channel.acknowledge(delivery.delivery_tag).await.expect("acknowledged");
        channel.consume("copies", "d").await.expect("a consumer");
        let copied = channel.next().await.expect("alive").expect("a delivery");
        let Properties::Unreadable(read) = &copied.properties else { panic!("readable") };
        assert_eq!(read.bytes(), copy);
        let headers = read.lossy().headers().clone().expect("headers");
        assert_eq!(headers.inner().get(status.0), Some(&status.1));
        connection.close().await;
        assert_eq!(amqp.ready_count("q").await, 0);
    });
}

#[test]
fn a_missing_queue_closes_only_the_channel() {
    kit::run(async |ctx| {
        let connection = connect(&ctx, "").await;
        let mut channel = connection.open_channel().await.expect("a channel");
        let missing = channel.message_count("none").await;
        let Err(WireError::ChannelClosed { code: 404, text }) = missing else { panic!("{missing:?}") };
        assert!(text.contains("no queue 'none'"), "{text}");
        let mut channel = connection.open_channel().await.expect("another channel");
        ctx.amqp().await.declare_queue("q", FieldTable::default()).await;
        assert_eq!(channel.message_count("q").await, Ok(0));
    });
}

#[test]
fn a_cancelled_consumer_returns_what_it_received_and_a_deleted_queue_ends_it() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        amqp.declare_queue("q", FieldTable::default()).await;
        amqp.publish_all("", "q", (0..5).map(|n| (id(&n.to_string()), vec![n]))).await;
        let connection = connect(&ctx, "").await;
        let mut channel = connection.open_channel().await.expect("a channel");
        channel.qos(3).await.expect("qos");
        channel.consume("q", "c").await.expect("a consumer");
        let first = channel.next().await.expect("alive").expect("a delivery");
        channel.cancel("c").await.expect("cancelled");
        channel.acknowledge(first.delivery_tag).await.expect("acknowledged");
        let rest: Vec<_> = std::iter::from_fn(|| channel.buffered()).map(|rest| rest.body).collect();
        assert_eq!(rest, [[1], [2]]);
        channel.consume("q", "d").await.expect("a consumer");
        for _ in 0..2 {
            channel.next().await.expect("alive").expect("a delivery");
        }
        let deleting = amqp.channel().await;
        deleting.queue_delete("q".into(), Default::default()).await.expect("deleted");
        let ended = tokio::time::timeout(SOON, channel.next()).await.expect("in time");
        assert!(matches!(ended, Ok(None)), "{ended:?}");
    });
}

#[test]
fn an_idle_connection_sends_heartbeats_and_a_cut_one_is_an_error() {
    kit::run(async |ctx| {
        ctx.amqp().await.declare_queue("q", FieldTable::default()).await;
        let (line, url) = ctx.cutter().await;
        let connection = connect_to(format!("{url}?heartbeat=1")).await.expect("a connection");
        let mut channel = connection.open_channel().await.expect("a channel");
        channel.consume("q", "c").await.expect("a consumer");
        // RabbitMQ closes a connection after two missed heartbeats.
        let idle = tokio::time::timeout(Duration::from_secs(4), channel.next()).await;
        assert!(idle.is_err(), "{idle:?}");
        assert_eq!(channel.message_count("q").await, Ok(0));
        line.half_open();
        let cut = tokio::time::timeout(SOON, channel.next()).await.expect("in time");
        assert!(matches!(cut, Err(WireError::Lost(_) | WireError::Io { .. })), "{cut:?}");
    });
}

#[test]
fn a_wrong_password_is_a_refused_login_and_is_not_shown() {
    kit::run(async |ctx| {
        let mut url: url::Url = ctx.amqp_url().parse().expect("a URL");
        url.set_password(Some("wrong")).expect("a URL with a host");
        let error = connect_to(url.into()).await.expect_err("refused");
        assert!(error.is_refusal() && !error.to_string().contains("wrong"), "{error}");
    });
}
