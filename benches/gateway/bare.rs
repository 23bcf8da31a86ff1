//! The baseline: axum and lapin. A request is published persistent and mandatory on a channel that no other publish
//! uses meanwhile, and answered when it is confirmed. Nothing else: no clients, no decoding, no keys, no waiting, no
//! bounds, no logs, no metrics, no traces, no reconnect. Any error is a panic.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use crate::site::EXCHANGE;

struct Shared {
    connection: Connection,
    idle: Mutex<Vec<Channel>>,
}

/// Serves until it is killed; prints its address on its first line.
#[tokio::main]
pub async fn run(amqp: &str) -> ExitCode {
    let connection = Connection::connect(amqp, ConnectionProperties::default()).await.expect("connected");
    let shared = Arc::new(Shared { connection, idle: Mutex::default() });
    let router = Router::new().route("/v1/unlocks", post(unlock)).with_state(shared);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    axum::serve(listener, router).await.expect("served");
    ExitCode::SUCCESS
}

async fn unlock(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let id = uuid::Uuid::now_v7().to_string();
    let content_type = headers[header::CONTENT_TYPE].to_str().expect("text");
    let idle = shared.idle.lock().expect("no panic").pop();
    let channel = match idle {
        Some(channel) => channel,
        None => open(&shared.connection).await,
    };
    let properties = BasicProperties::default()
        .with_message_id(id.as_str().into())
        .with_content_type(content_type.into())
        .with_app_id("bare".into())
        .with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let publish = channel.basic_publish(EXCHANGE.into(), "request".into(), options, &body, properties);
    let confirm = publish.await.expect("published").await.expect("confirmed");
    assert!(matches!(confirm, Confirmation::Ack(None)), "{confirm:?}");
    shared.idle.lock().expect("no panic").push(channel);
    let location = format!("/v1/unlocks/{id}");
    let answer = serde_json::json!({"id": id, "status": "accepted"}).to_string();
    let headers = [(header::CONTENT_TYPE, "application/json".to_owned()), (header::LOCATION, location)];
    (StatusCode::ACCEPTED, headers, answer).into_response()
}

async fn open(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    channel
}
