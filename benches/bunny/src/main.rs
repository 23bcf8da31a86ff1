//! The bare loop of `make bench` on bunny-rs in place of lapin: it shows what another AMQP client would cost.
//!
//! Its arguments are the broker's URL, the address of Trackfinity, how many requests at once, and the file of an
//! authority or an empty word.

use std::sync::Arc;

use bunny_rs::{BasicProperties, ConfirmChannel, Connection, Delivery, PublishOptions};
use serde::Deserialize;
use tokio::sync::{Mutex, mpsc};

#[path = "../../shared/call.rs"]
mod call;
#[path = "../../shared/outcome.rs"]
mod outcome;

const REQUESTS: &str = "trackfinity.unlock.requests";
const RESULTS: &str = "trackfinity.unlock.results";

#[derive(Deserialize)]
struct Request {
    customer_id: String,
}

#[tokio::main]
async fn main() {
    let arguments = <[String; 4]>::try_from(std::env::args().skip(1).collect::<Vec<_>>());
    let [amqp, api, concurrency, authority] = arguments.expect("four arguments");
    let connection = Connection::from_uri(&amqp).await.expect("connected");
    let mut consuming = connection.open_channel().await.expect("a channel");
    let publishing = connection.open_channel().await.expect("a channel");
    let publishing = publishing.into_confirm_mode().await.expect("confirms");
    let publishing = Arc::new(Mutex::new(publishing));
    consuming.basic_qos(concurrency.parse().expect("a number")).await.expect("a prefetch");
    consuming.consume_with_manual_acks(REQUESTS, "").await.expect("a consumer");
    let client = call::Client::new(&api, (!authority.is_empty()).then(|| authority.as_ref()));
    let (settled, mut to_acknowledge) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            delivery = consuming.recv_delivery() => {
                let delivery = delivery.expect("a delivery").expect("the queue lives");
                let (client, publishing, settled) = (client.clone(), Arc::clone(&publishing), settled.clone());
                tokio::spawn(async move {
                    let tag = delivery.delivery_tag;
                    unlock(delivery, &client, &publishing).await;
                    settled.send(tag).expect("the loop goes on");
                });
            }
            Some(tag) = to_acknowledge.recv() => consuming.ack(tag).await.expect("acknowledged"),
        }
    }
}

async fn unlock(delivery: Delivery, client: &call::Client, publishing: &Mutex<ConfirmChannel>) {
    let received = jiff::Timestamp::now();
    let request: Request = serde_json::from_slice(&delivery.body).expect("a request");
    client.unlock(&request.customer_id).await;
    let id = delivery.message_id().expect("an id");
    let now = jiff::Timestamp::now();
    let outcome = outcome::unlocked(id, &request.customer_id, received, now);
    let properties = BasicProperties::default()
        .message_id(format!("{id}/0"))
        .correlation_id(id)
        .content_type("application/json")
        .message_type("trackfinity.unlock.outcome.v1")
        .app_id("bare")
        .timestamp(now.as_second().unsigned_abs())
        .persistent();
    let options = PublishOptions { properties, ..PublishOptions::default() };
    let confirm = publishing.lock().await.publish(RESULTS, "unlock.unlocked", &options, &outcome).await;
    confirm.expect("published").wait().await.expect("confirmed");
}
