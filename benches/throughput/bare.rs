//! The baseline: a loop of lapin and reqwest that consumes, calls, publishes with confirms and acknowledges. Nothing
//! else: no retry, no dead letters, no pause, no time limits, no logs, no metrics, no traces, no drain. Any error is a
//! panic. Its outcomes have all fields of the contract, so that both contenders publish the same number of bytes.

use std::process::ExitCode;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde::Deserialize;

use crate::arguments::Bare;
use crate::call::Client;
use crate::outcome;
use crate::site::{REQUESTS, RESULTS};

#[derive(Deserialize)]
struct Request {
    customer_id: String,
}

#[tokio::main]
pub async fn run(options: &Bare) -> ExitCode {
    let connection =
        Connection::connect(&options.amqp, ConnectionProperties::default()).await.expect("connected");
    let consuming = connection.create_channel().await.expect("a channel");
    let publishing = connection.create_channel().await.expect("a channel");
    publishing.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    consuming.basic_qos(options.concurrency, BasicQosOptions::default()).await.expect("a prefetch");
    let mut deliveries = consuming
        .basic_consume(REQUESTS.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .expect("a consumer");
    let client = Client::new(&options.api, options.authority.as_deref());
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery.expect("a delivery");
        tokio::spawn(unlock(delivery, client.clone(), publishing.clone()));
    }
    ExitCode::SUCCESS
}

async fn unlock(delivery: Delivery, client: Client, publishing: Channel) {
    let received = jiff::Timestamp::now();
    let request: Request = serde_json::from_slice(&delivery.data).expect("a request");
    client.unlock(&request.customer_id).await;
    let id = delivery.properties.message_id().clone().expect("an id");
    let now = jiff::Timestamp::now();
    let outcome = outcome::unlocked(id.as_str(), &request.customer_id, received, now);
    let properties = BasicProperties::default()
        .with_message_id(format!("{id}/0").into())
        .with_correlation_id(id)
        .with_content_type("application/json".into())
        .with_type("trackfinity.unlock.outcome.v1".into())
        .with_app_id("bare".into())
        .with_timestamp(now.as_second().unsigned_abs())
        .with_delivery_mode(2);
    let confirm = publishing
        .basic_publish(
            RESULTS.into(),
            "unlock.unlocked".into(),
            BasicPublishOptions::default(),
            &outcome,
            properties,
        )
        .await
        .expect("published");
    assert!(confirm.await.expect("confirmed").is_ack());
    assert!(delivery.acker.ack(BasicAckOptions::default()).await.expect("acknowledged"));
}
