//! `unlocker publish`

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, anyhow};
use clap::Args;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};

use super::Failure;
use crate::{
    broker::{
        Topology, connection,
        topology::{REQUEST_KEY, soft_error},
    },
    message::headers,
    settings::{BrokerSettings, environment},
    telemetry::TraceContext,
};

/// RabbitMQ's pseudo-queue for replies (RabbitMQ docs, "Direct Reply-to").
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

#[derive(Debug, Args)]
#[group(id = "identifiers", required = true, multiple = true, args = ["customer_id", "subscription_id", "orderid"])]
pub(super) struct Request {
    /// The customer to unlock.
    #[arg(long, value_name = "ID")]
    customer_id: Option<String>,
    /// A subscription of that customer.
    #[arg(long, value_name = "ID")]
    subscription_id: Option<String>,
    /// The event id of one of the customer's transactions.
    #[arg(long, value_name = "ID")]
    orderid: Option<String>,
    /// The request's id [default: a new UUID]
    #[arg(long, value_name = "ID", value_parser = message_id)]
    message_id: Option<String>,
    /// Wait for the outcome and print it.
    #[arg(long)]
    wait: bool,
    /// The longest to wait for the outcome, such as 60s [default: for ever]
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

fn message_id(text: &str) -> Result<String, String> {
    match text.len() {
        1..=255 => Ok(text.to_owned()),
        length => Err(format!("{length} bytes; AMQP takes 1 to 255")),
    }
}

pub(super) async fn publish(files: &[PathBuf], request: Request) -> Result<(), Failure> {
    let settings = BrokerSettings::load(files, environment())?;
    let urls = settings.broker.uris().map_err(anyhow::Error::from)?;
    let connection = connection::connect(&urls, "publish").await?;
    let topology = Topology::new(&settings.topology_prefix);
    let result = send(&connection, &topology, request).await;
    connection.close().await;
    Ok(result?)
}

async fn send(connection: &lapin::Connection, topology: &Topology, request: Request) -> anyhow::Result<()> {
    let message_id = request.message_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let body = serde_json::to_vec(&fields(&request)).context("the request cannot be encoded")?;
    let mut properties = BasicProperties::default()
        .with_message_id(message_id.as_str().into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_headers(trace_headers());
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut replies = None;
    if request.wait {
        replies = Some(consume_replies(&channel).await?);
        properties = properties.with_reply_to(DIRECT_REPLY_TO.into());
    }
    confirmed(&channel, topology, &body, properties).await?;
    let Some(mut replies) = replies else {
        super::print(format_args!("published {message_id}"))?;
        return Ok(());
    };
    eprintln!("published {message_id}; waiting for its outcome");
    let timeout = request.timeout.unwrap_or(Duration::MAX);
    let reply = tokio::time::timeout(timeout, replies.next())
        .await
        .map_err(|_elapsed| anyhow!("no outcome within {}", humantime::format_duration(timeout)))?
        .context("RabbitMQ closed the channel before the outcome came")??;
    super::print(format_args!("{}", String::from_utf8_lossy(&reply.data)))?;
    Ok(())
}

fn fields(request: &Request) -> BTreeMap<&'static str, &str> {
    let given = [
        ("customer_id", &request.customer_id),
        ("subscription_id", &request.subscription_id),
        ("orderid", &request.orderid),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
}

fn trace_headers() -> FieldTable {
    let mut table = FieldTable::default();
    let parent = TraceContext::new_root().to_string();
    table.insert(headers::TRACEPARENT.into(), AMQPValue::LongString(parent.into()));
    table
}

async fn consume_replies(channel: &Channel) -> anyhow::Result<lapin::Consumer> {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let tag = "".into();
    let replies = channel.basic_consume(DIRECT_REPLY_TO.into(), tag, options, FieldTable::default()).await?;
    Ok(replies)
}

async fn confirmed(
    channel: &Channel,
    topology: &Topology,
    body: &[u8],
    properties: BasicProperties,
) -> anyhow::Result<()> {
    let exchange = topology.exchange();
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let key = REQUEST_KEY.into();
    let publish = channel.basic_publish(exchange.into(), key, options, body, properties).await?;
    match publish.await {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(_returned))) => Err(anyhow!(
            "not published: no queue is bound to exchange {exchange} with routing key {REQUEST_KEY}; \
             `unlocker run` declares them"
        )),
        Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => {
            Err(anyhow!("not published: the queue refused the request; it may be full"))
        }
        Err(error) => match soft_error(&error) {
            Some((_, broker)) => Err(anyhow!(
                "not published: {broker}; `unlocker run` declares the exchange {exchange}, and the \
                 user needs write on it"
            )),
            None => Err(error).context("not known to be published"),
        },
    }
}
