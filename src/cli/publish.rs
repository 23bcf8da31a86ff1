//! `unlocker publish`: one request from the command line, or many from a file.

mod bulk;
mod lines;
mod progress;
mod request;
mod returns;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, anyhow};
use clap::{ArgGroup, Args};
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::FieldTable,
};

use self::request::{DeliveryArgs, REFUSED, closed, unrouted};
use super::{failure::Failure, print::print};
use crate::{
    broker::{Connector, Topology, replies::DIRECT_REPLY_TO, topology::REQUEST_KEY},
    message::{Identifiers, Status, request::Identifier},
    settings::{BrokerSettings, environment},
};

/// How long the publisher confirm may take. While RabbitMQ is short of memory or disk, it reads
/// nothing from a connection that publishes, and none would ever come.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// At least one of these must be given.
const IDENTIFIERS: [&str; 4] = ["customer_id", "subscription_id", "orderid", "from"];

#[derive(Debug, Args)]
// An explicit group: `#[group]` would add every field, and `--wait` alone would do.
#[command(group(ArgGroup::new("identifiers").required(true).multiple(true).args(IDENTIFIERS)))]
pub(super) struct PublishArgs {
    /// The customer to unlock.
    #[arg(long, value_name = "ID", value_parser = identifier)]
    customer_id: Option<Identifier>,
    /// A subscription of that customer.
    #[arg(long, value_name = "ID", value_parser = identifier)]
    subscription_id: Option<Identifier>,
    /// The event id of a transaction of the customer.
    #[arg(long, value_name = "ID", value_parser = identifier)]
    orderid: Option<Identifier>,
    /// The request's id [default: a new UUID]
    #[arg(long, value_name = "ID", value_parser = message_id)]
    message_id: Option<String>,
    #[command(flatten)]
    delivery: DeliveryArgs,
    /// Wait for the outcome and print it; the exit code is 1 unless it is `unlocked`.
    #[arg(long)]
    wait: bool,
    /// How long to wait for the outcome, such as 60s [default: forever]
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Publish many requests: one JSON object per line, from a file, or from stdin with "-". The
    /// line is the request's body. Its message_id (or request_id) and correlation_id, if present,
    /// also become its properties.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["customer_id", "subscription_id", "orderid", "message_id", "wait"])]
    from: Option<PathBuf>,
}

/// A blank identifier is a mistake here, such as an empty variable of a script.
fn identifier(text: &str) -> Result<Identifier, String> {
    let identifier = Identifier::parse(text.into()).map_err(|wrong| format!("it {wrong}"))?;
    identifier.ok_or_else(|| "it is blank: give the id, or omit the option".to_owned())
}

fn message_id(text: &str) -> Result<String, String> {
    match text.len() {
        1..=255 => Ok(text.to_owned()),
        length => Err(format!("it has {length} bytes: give 1 to 255, or omit the option")),
    }
}

pub(super) async fn publish(files: &[PathBuf], args: PublishArgs) -> Result<(), Failure> {
    let settings = BrokerSettings::load(files, environment())?;
    let source = args.from.as_deref().map(lines::Source::open).transpose()?;
    let connection = Connector::new(&settings.broker).connect("publish").await?;
    let topology = Topology::new(&settings.topology_prefix);
    let result = match source {
        Some(source) => bulk::publish(&connection, &topology, source, &args.delivery).await,
        None => send(&connection, &topology, args).await,
    };
    connection.close().await;
    result
}

async fn send(connection: &lapin::Connection, topology: &Topology, args: PublishArgs) -> Result<(), Failure> {
    let PublishArgs { customer_id, subscription_id, orderid, .. } = args;
    let message_id = args.message_id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let body = serde_json::to_vec(&Identifiers { customer_id, subscription_id, orderid })
        .context("the request cannot be encoded")?;
    let mut properties = args.delivery.properties(&message_id);
    let channel = connection.create_channel().await.map_err(anyhow::Error::from)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(anyhow::Error::from)?;
    let mut replies = None;
    if args.wait {
        replies = Some(consume_replies(&channel).await?);
        properties = properties.with_reply_to(DIRECT_REPLY_TO.into());
    }
    let limit = args.timeout.unwrap_or(CONFIRM_TIMEOUT).min(CONFIRM_TIMEOUT);
    tokio::time::timeout(limit, publish_confirmed(&channel, topology, &body, properties)).await.map_err(
        |_elapsed| {
            let limit = humantime::format_duration(limit);
            anyhow!(
                "not known to be published: RabbitMQ has not confirmed {message_id} within {limit}. It may be short of \
                 memory or disk: see its alarms. To repeat it is safe with the same --message-id"
            )
        },
    )??;
    let Some(mut replies) = replies else {
        print(format_args!("published {message_id}"))?;
        return Ok(());
    };
    eprintln!("published {message_id}; waiting for its outcome");
    let timeout = args.timeout.unwrap_or(Duration::MAX);
    let reply = tokio::time::timeout(timeout, replies.next())
        .await
        .map_err(|_elapsed| {
            let waited = humantime::format_duration(timeout);
            anyhow!("no outcome within {waited}; the request is published, so it may still come")
        })?
        .context("RabbitMQ closed the channel before the outcome came")?
        .map_err(anyhow::Error::from)?;
    print(format_args!("{}", String::from_utf8_lossy(&reply.data)))?;
    if is_unlocked(&reply.data) { Ok(()) } else { Err(Failure::Reported) }
}

/// Whether an outcome says `unlocked`.
fn is_unlocked(outcome: &[u8]) -> bool {
    let outcome: serde_json::Value = serde_json::from_slice(outcome).unwrap_or_default();
    outcome.get("status").and_then(|status| status.as_str()) == Some(Status::Unlocked.as_str())
}

pub(super) async fn consume_replies(channel: &Channel) -> anyhow::Result<lapin::Consumer> {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let tag = "".into();
    let replies = channel.basic_consume(DIRECT_REPLY_TO.into(), tag, options, FieldTable::default()).await?;
    Ok(replies)
}

async fn publish_confirmed(
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
        Ok(Confirmation::Ack(Some(_returned))) => Err(anyhow!("not published: {}", unrouted(topology))),
        Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => Err(anyhow!("not published: {REFUSED}")),
        Err(error) => match closed(&error, topology) {
            Some(why) => Err(anyhow!("not published: {why}")),
            None => Err(error).context("not known to be published"),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, error::ErrorKind};

    use super::*;

    #[derive(Debug, Parser)]
    struct Publish {
        #[command(flatten)]
        args: PublishArgs,
    }

    fn parse(args: &[&str]) -> Result<PublishArgs, ErrorKind> {
        let parsed = Publish::try_parse_from([&["publish"], args].concat());
        parsed.map(|publish| publish.args).map_err(|error| error.kind())
    }

    #[test]
    fn only_the_status_unlocked_is_a_success() {
        assert!(is_unlocked(br#"{"status":"unlocked"}"#));
        for outcome in [r#"{"status":"refused"}"#, r#"{"status":"a new one"}"#, "{}", "no JSON"] {
            assert!(!is_unlocked(outcome.as_bytes()), "{outcome}");
        }
    }

    #[test]
    fn a_request_needs_an_identifier() {
        for args in [&[][..], &["--wait"], &["--message-id", "x"], &["--wait", "--timeout", "1s"]] {
            assert_eq!(parse(args).unwrap_err(), ErrorKind::MissingRequiredArgument, "{args:?}");
        }
        for wrong in [
            &["--customer-id", " "][..],
            &["--customer-id", "1", "--orderid", ""],
            &["--orderid", "a\nb"],
            &["--customer-id", "1", "--message-id", ""],
            &["--customer-id", "1", "--priority", "256"],
            &["--customer-id", "1", "--expires-in", "0s"],
            &["--customer-id", "1", "--expires-in", "50days"],
            &["--customer-id", "1", "--expires-in", "60"],
        ] {
            assert_eq!(parse(wrong).unwrap_err(), ErrorKind::ValueValidation, "{wrong:?}");
        }
        for args in [
            &["--customer-id", "1"][..],
            &["--from", "-", "--priority", "7", "--expires-in", "90s"],
            &["--subscription-id", "1", "--wait"],
            &["--orderid", "1", "--customer-id", "2", "--message-id", "x"],
            &["--from", "-"],
        ] {
            assert!(parse(args).is_ok(), "{args:?}");
        }
        assert_eq!(parse(&["--from", "-", "--wait"]).unwrap_err(), ErrorKind::ArgumentConflict);
    }
}
