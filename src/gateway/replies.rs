//! Receives outcomes by direct reply-to (RabbitMQ docs, "Direct Reply-to") on a connection of its own, and
//! hands them to the requests that wait for them.
//!
//! RabbitMQ gives the address of a consumer of replies only to who receives a message from its channel. So
//! one message is published to a routing key that no queue is bound with; RabbitMQ returns it, and in it is
//! the address. With this address a request can be published on any channel.

use std::{convert::Infallible, time::Duration};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::app::App;
use crate::broker::{Backoff, ConnectError, Connector, replies::DIRECT_REPLY_TO};

/// No queue is bound with it.
const NOWHERE: &str = "gateway.reply-address";
/// How long RabbitMQ may take to open the consumer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// After a consumer lived this long, the backoff starts again at its minimum.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Why no replies are received.
#[derive(Debug, thiserror::Error)]
enum NoReplies {
    #[error("{summary}: {0}", summary = .0.summary())]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Failed(#[from] lapin::Error),
    #[error("RabbitMQ opened no consumer within {} s", OPEN_TIMEOUT.as_secs())]
    Timeout,
    #[error(
        "a queue is bound to the exchange for requests with the routing key {NOWHERE}, or an alternate exchange: \
             remove it"
    )]
    NotReturned,
    #[error("the consumer has ended")]
    Ended,
}

/// Receives until `end` is cancelled.
pub(super) async fn receive(app: App, connector: Connector, end: CancellationToken) {
    let receive = async {
        let mut backoff = Backoff::new();
        loop {
            let begun = Instant::now();
            let Err(error) = receive_once(&app, &connector).await;
            app.waiters.disconnected();
            if begun.elapsed() >= STABLE_AFTER {
                backoff.reset();
            }
            if let Some(left_out) = app.throttle.due(&("no_replies", error.to_string())) {
                tracing::warn!(
                    event = "no_replies",
                    left_out,
                    "no outcome can be waited for, and such requests are answered at once: {error}"
                );
            }
            connector.wait_to_retry(backoff.next(fastrand::f64())).await;
        }
    };
    end.run_until_cancelled(receive).await;
    app.waiters.disconnected();
}

async fn receive_once(app: &App, connector: &Connector) -> Result<Infallible, NoReplies> {
    let connection = connector.connect_with_small_frames("receives replies").await?;
    let open = async {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let replies =
            channel.basic_consume(DIRECT_REPLY_TO.into(), "".into(), options, FieldTable::default()).await?;
        let address = own_address(&channel, app.topology.exchange()).await?;
        Ok::<_, NoReplies>((channel, replies, address))
    };
    let (channel, mut replies, address) =
        tokio::time::timeout(OPEN_TIMEOUT, open).await.map_err(|_elapsed| NoReplies::Timeout)??;
    app.waiters.connected(address);
    tracing::info!(event = "replies_received", "outcomes can be waited for");
    while let Some(reply) = replies.next().await {
        let reply = reply?;
        // It holds the request's id, which two requests never share; a correlation id they may.
        let message_id = reply.properties.message_id().as_ref().map(|id| id.as_str()).unwrap_or_default();
        if let Some((request_id, _replays)) = message_id.rsplit_once('/') {
            let outcome: std::sync::Arc<[u8]> = reply.data.into();
            app.keys.finished(request_id, &outcome);
            app.waiters.deliver(request_id, &outcome);
        }
    }
    drop(channel);
    Err(NoReplies::Ended)
}

async fn own_address(channel: &Channel, exchange: &str) -> Result<String, NoReplies> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default().with_reply_to(DIRECT_REPLY_TO.into());
    let publish = channel.basic_publish(exchange.into(), NOWHERE.into(), options, b"", properties).await?;
    match publish.await? {
        Confirmation::Ack(Some(returned)) => {
            let address = returned.delivery.properties.reply_to().as_ref().map(|address| address.to_string());
            address.filter(|address| address.len() > DIRECT_REPLY_TO.len()).ok_or(NoReplies::NotReturned)
        }
        _ => Err(NoReplies::NotReturned),
    }
}
