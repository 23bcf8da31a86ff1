//! The baseline: a loop of lapin and reqwest that consumes, calls, publishes with confirms and acknowledges. Nothing
//! else: no retry, no dead letters, no pause, no time limits, no logs, no metrics, no traces, no drain. Any error is a
//! panic. Its outcomes have all fields of the contract, so that both contenders publish the same number of bytes.

use std::path::Path;
use std::process::ExitCode;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde::{Deserialize, Serialize};

use crate::arguments::Bare;
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
    let http = http_client(options.authority.as_deref());
    let url = format!("{}/api/customer/unlock", options.api);
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery.expect("a delivery");
        tokio::spawn(unlock(delivery, http.clone(), url.clone(), publishing.clone()));
    }
    ExitCode::SUCCESS
}

#[derive(Serialize)]
struct Outcome<'a> {
    status: &'a str,
    request_id: &'a str,
    request: Identifiers<'a>,
    attempts: u32,
    http_status: u16,
    reason: Option<&'a str>,
    detail: Option<&'a str>,
    replays: u32,
    first_received_at: String,
    finished_at: String,
}

#[derive(Serialize)]
struct Identifiers<'a> {
    customer_id: &'a str,
}

fn http_client(authority: Option<&Path>) -> reqwest::Client {
    let mut builder = reqwest::Client::builder().no_proxy().http1_only();
    if let Some(authority) = authority {
        let pem = std::fs::read(authority).expect("the authority's file");
        builder = builder.tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("an authority")]);
    }
    builder.build().expect("a client")
}

async fn unlock(delivery: Delivery, http: reqwest::Client, url: String, publishing: Channel) {
    let received = jiff::Timestamp::now();
    let request: Request = serde_json::from_slice(&delivery.data).expect("a request");
    let body = form_urlencoded::Serializer::new(String::new())
        .append_pair("customer_id", &request.customer_id)
        .finish();
    let answer = http
        .patch(url)
        .header("api-key", "key")
        .header("api-username", "user")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.text().await.expect("a body"), "true");
    let id = delivery.properties.message_id().clone().expect("an id");
    let now = jiff::Timestamp::now();
    let outcome = Outcome {
        status: "unlocked",
        request_id: id.as_str(),
        request: Identifiers { customer_id: &request.customer_id },
        attempts: 1,
        http_status: 200,
        reason: None,
        detail: None,
        replays: 0,
        first_received_at: format!("{received:.3}"),
        finished_at: format!("{now:.3}"),
    };
    let outcome = serde_json::to_vec(&outcome).expect("JSON");
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
