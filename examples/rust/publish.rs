//! Requests the unlocking of a customer, and prints the outcome: publish CUSTOMER_ID
//!
//! In your own project: `cargo add anyhow futures-util lapin serde_json tokio uuid`. The Cargo.lock of
//! this repository has the versions that it was tested with.

use std::{env, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// Direct reply-to: RabbitMQ sends the outcome back on this channel.
const REPLIES: &str = "amq.rabbitmq.reply-to";
const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let customer_id = env::args().nth(1).context("usage: publish CUSTOMER_ID")?;
    let url = env::var("AMQP_URL").context("AMQP_URL is not set")?;
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // Direct reply-to: consume first, then publish the request that names this queue.
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut outcomes =
        channel.basic_consume(REPLIES.into(), "".into(), options, FieldTable::default()).await?;

    // Store the id before you publish. If you do not know whether RabbitMQ has the request, send it
    // again with this id.
    let message_id = Uuid::now_v7().to_string();
    let mut headers = FieldTable::default();
    // With OpenTelemetry: the context of the current span.
    let (trace, span) = (Uuid::now_v7().simple(), Uuid::now_v7().as_u64_pair().1);
    headers.insert("traceparent".into(), AMQPValue::LongString(format!("00-{trace}-{span:016x}-01").into()));
    let properties = BasicProperties::default()
        .with_message_id(message_id.as_str().into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_reply_to(REPLIES.into())
        .with_headers(headers);
    let body = serde_json::to_vec(&json!({"customer_id": customer_id}))?;
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm = channel
        .basic_publish("trackfinity.unlock".into(), "request".into(), options, &body, properties)
        .await?;
    match confirm.await? {
        Confirmation::Ack(None) => eprintln!("published {message_id}"),
        Confirmation::Ack(Some(_returned)) => bail!("not published: no queue receives requests"),
        _ => bail!("not published: the queue refused it"),
    }

    let outcome = tokio::time::timeout(TIMEOUT, outcomes.next()).await.context("no outcome in time")?;
    let outcome: Value = serde_json::from_slice(&outcome.context("the channel was closed")??.data)?;
    println!("{outcome}");
    connection.close(200, "done".into()).await?;
    Ok(if outcome.get("status").is_some_and(|status| status == "unlocked") {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
