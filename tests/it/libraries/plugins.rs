//! The protocols that RabbitMQ speaks through plugins. Each has a node of its own.

use kit::{Context, NodeOptions};
use serde_json::{Value, json};

use super::{Client, LIMIT, Language};
use crate::{
    rights::User,
    world::{REQUESTS, RESULTS},
};

/// The exchange that MQTT uses, and the routing key of its topic for requests.
const MQTT: (&str, &str) = ("amq.topic", "trackfinity.unlock.request");
/// RabbitMQ makes it of the client id; QoS 1 has a queue of its own.
const MQTT_QUEUE: &str = "mqtt-subscription-shop-outcomesqos1";

/// With these protocols RabbitMQ 3.10 does not say that no queue received a request.
fn client(folder: &'static str) -> Client {
    Client { notices_unroutable: false, ..Client::new(folder, Language::Python) }
}

/// A binding to a queue (`q`) or an exchange (`e`).
fn binding(source: &str, kind: &str, destination: &str, key: &str) -> (String, Value) {
    let path = format!("/api/bindings/VHOST/e/{source}/{kind}/{destination}");
    (path, json!({ "routing_key": key }))
}

fn runs(
    plugin: &'static str,
    conf: &str,
    client: Client,
    environment: impl Fn(&Context, &User<'_>) -> Vec<(&'static str, String)>,
) {
    let options = NodeOptions::default().plugin(plugin).conf(conf);
    kit::run_on_own_node_within(LIMIT, options, async |ctx| {
        client.run(ctx.clone(), |user| environment(&ctx, user)).await;
    });
}

#[test]
fn mqtt_publishes_and_hears_the_outcome() {
    let port = kit::free_port().to_string();
    let listener = [MQTT_QUEUE, MQTT_QUEUE, &format!(r"{MQTT_QUEUE}|amq\.topic")];
    let client = Client {
        rights: [
            ["^$", r"^amq\.topic$", "^$"].map(ToOwned::to_owned),
            listener.map(|names| format!("^({names})$")),
        ],
        target: MQTT,
        queue: MQTT_QUEUE,
        added: vec![binding(MQTT.0, "q", REQUESTS, MQTT.1), binding(RESULTS, "e", MQTT.0, "unlock.#")],
        sets_properties: false,
        ..client("mqtt")
    };
    runs("rabbitmq_mqtt", &format!("mqtt.listeners.tcp.1 = 127.0.0.1:{port}"), client, |ctx, user| {
        vec![
            ("MQTT_HOST", "127.0.0.1".into()),
            ("MQTT_PORT", port.clone()),
            ("MQTT_USER", format!("{}:{}", ctx.vhost().name(), user.name)),
            ("MQTT_PASSWORD", "p".into()),
        ]
    });
}

#[test]
fn stomp_publishes_and_hears_the_outcome() {
    let port = kit::free_port().to_string();
    let conf = format!("stomp.listeners.tcp.1 = 127.0.0.1:{port}");
    runs("rabbitmq_stomp", &conf, client("stomp"), |ctx, user| {
        vec![
            ("STOMP_HOST", "127.0.0.1".into()),
            ("STOMP_PORT", port.clone()),
            ("STOMP_USER", user.name.clone()),
            ("STOMP_PASSWORD", "p".into()),
            ("STOMP_VHOST", ctx.vhost().name().into()),
        ]
    });
}

#[test]
fn amqp_1_0_publishes_and_hears_the_outcome() {
    let client = Client { declares_queue: false, ..client("amqp10") };
    runs("rabbitmq_amqp1_0", "", client, |ctx, user| {
        let (host, port) = ctx.node().address();
        vec![
            ("AMQP_URL", format!("amqp://{}:p@{host}:{port}", user.name)),
            ("AMQP_HOST", format!("vhost:{}", ctx.vhost().name())),
        ]
    });
}
