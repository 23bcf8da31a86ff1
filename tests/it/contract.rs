//! What listeners rely on within v1: each outcome's bytes, properties and headers, pinned. A change
//! here is a change of the contract: docs/contract.md says which are allowed.

use kit::{AMQPValue, Answer, FieldTable, Message};

use crate::world::{SOON, World, header, id, text};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The message as text; times and span ids, which differ each time, are checked and masked.
fn pinned(message: &Message) -> String {
    let mut body = message.text();
    for moment in ["first_received_at", "finished_at"] {
        let time = text(&message.json()[moment]);
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.len() == 24, "{moment} is {time}");
        body = body.replace(&time, "TIME");
    }
    let properties = &message.properties;
    let short = |value: &Option<lapin::types::ShortString>| {
        value.as_ref().map_or_else(|| "none".to_owned(), |value| value.as_str().to_owned())
    };
    let headers = properties.headers().clone().unwrap_or_default();
    let headers: Vec<String> = headers
        .inner()
        .iter()
        .map(|(name, value)| match (name.as_str(), value) {
            ("traceparent", AMQPValue::LongString(value)) => {
                let value = value.to_string();
                let parts: Vec<_> = value.split('-').collect();
                assert_eq!(
                    (parts[0], parts[1], parts[2].len(), parts[3]),
                    ("00", TRACE, 16, "01"),
                    "{value}"
                );
                format!("traceparent=00-{TRACE}-SPAN-01")
            }
            (name, value) => format!("{name}={value:?}"),
        })
        .collect();
    let seconds = properties.timestamp().expect("a timestamp");
    let finished: jiff::Timestamp = text(&message.json()["finished_at"]).parse().expect("a time");
    assert_eq!(i64::try_from(seconds).expect("seconds"), finished.as_second());
    format!(
        "{} {} type={} app_id={} content_type={} message_id={} correlation_id={} delivery_mode={:?} reply_to={} \
         expiration={} [{}]\n{body}",
        message.exchange,
        message.routing_key,
        short(properties.kind()),
        short(properties.app_id()),
        short(properties.content_type()),
        short(properties.message_id()),
        short(properties.correlation_id()),
        properties.delivery_mode(),
        short(properties.reply_to()),
        short(properties.expiration()),
        headers.join(" "),
    )
}

#[test]
fn the_bytes_properties_and_headers_of_each_outcome_are_pinned() {
    kit::run(async |ctx| {
        let settings = [("RETRY__MAX_ATTEMPTS", "1")];
        let world = World::start_with(ctx, &settings, |call| match call.field("customer_id").as_deref() {
            Some("refused") => Answer::json(400, r#"{"error":"no"}"#),
            Some("abandoned") => Answer::status(503).body("down"),
            _ => Answer::unlocked(),
        })
        .await;
        let rows = [
            (
                r#"{"customer_id":191,"orderid":"EV-1","unknown":true}"#,
                "unlocked",
                r#"{"status":"unlocked","request_id":"m-1","request":{"customer_id":"191","orderid":"EV-1"},"attempts":1,"http_status":200,"reason":null,"detail":null,"replays":0,"first_received_at":"TIME","finished_at":"TIME","requested_by":null}"#,
            ),
            (
                r#"{"customer_id":"refused"}"#,
                "refused",
                r#"{"status":"refused","request_id":"m-1","request":{"customer_id":"refused"},"attempts":1,"http_status":400,"reason":"http_400","detail":"DETAIL","replays":0,"first_received_at":"TIME","finished_at":"TIME","requested_by":null}"#,
            ),
            (
                r#"{"customer_id":"abandoned"}"#,
                "abandoned",
                r#"{"status":"abandoned","request_id":"m-1","request":{"customer_id":"abandoned"},"attempts":1,"http_status":503,"reason":"http_503","detail":"DETAIL","replays":0,"first_received_at":"TIME","finished_at":"TIME","requested_by":null}"#,
            ),
            (
                "not JSON",
                "invalid",
                r#"{"status":"invalid","request_id":"m-1","request":null,"attempts":0,"http_status":null,"reason":"malformed","detail":"DETAIL","replays":0,"first_received_at":"TIME","finished_at":"TIME","requested_by":null}"#,
            ),
        ];
        for (request, status, body) in rows {
            let mut headers = FieldTable::default();
            let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
            headers.insert("traceparent".into(), AMQPValue::LongString(parent.into()));
            headers.insert("shop".into(), AMQPValue::Boolean(true));
            let properties = id("m-1").with_correlation_id("c-1".into()).with_headers(headers);
            world.publish(properties, request).await;
            let message = world.outcomes.next(SOON).await;
            let mut found = pinned(&message);
            // In words, for people: it may change.
            if let Some(detail) = message.json()["detail"].as_str() {
                found = found.replace(&serde_json::to_string(detail).expect("JSON"), r#""DETAIL""#);
            }
            let expected = format!(
                "trackfinity.unlock.results unlock.{status} type=trackfinity.unlock.outcome.v1 \
                 app_id=trackfinity-unlocker content_type=application/json message_id=m-1/0 correlation_id=c-1 \
                 delivery_mode=Some(2) reply_to=none expiration=none \
                 [traceparent=00-{TRACE}-SPAN-01]\n{body}"
            );
            assert_eq!(found, expected);
        }
    });
}

/// The header by which RabbitMQ filters a stream.
#[test]
fn an_outcome_names_its_identifier_in_a_header_only_where_the_history_is_kept() {
    for (enabled, expected) in [("false", None), ("true", Some("customer_id=191"))] {
        kit::run(async |ctx| {
            let settings = [("HISTORY__ENABLED", enabled)];
            let world = World::start_with(ctx, &settings, |_| Answer::unlocked()).await;
            world.unlock("191").await;
            let outcome = world.outcomes.next(SOON).await;
            assert_eq!(header(&outcome, "x-stream-filter-value").as_deref(), expected);
            world.publish(id("m-2"), r#"{"customer_id":191,"orderid":"EV-1"}"#).await;
            let outcome = world.outcomes.next(SOON).await;
            assert_eq!(header(&outcome, "x-stream-filter-value"), None);
            world.stop().await;
        });
    }
}

#[test]
fn no_queue_but_a_reply_queue_gets_anything_by_reply_to() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let own = ["shop", "amq.gene", "AMQ.gen-1", "Amq.rabbitmq.reply-to.1"];
        for queue in own.into_iter().filter(|queue| !queue.starts_with("amq.")) {
            world.amqp.declare_queue(queue, FieldTable::default()).await;
        }
        let names: Vec<String> = (world.ctx.vhost().management().queues().await.iter())
            .map(|queue| text(&queue["name"]))
            // The queue that collects the outcomes is RabbitMQ's own name, and so a reply queue.
            .filter(|name| !name.starts_with("amq.gen-"))
            .collect();
        assert!(names.len() >= 1 + 11 + 1 + 3, "{names:?}");
        for (n, reply_to) in names.iter().map(String::as_str).chain(own).enumerate() {
            let properties = id(&n.to_string()).with_reply_to(reply_to.into());
            world.publish(properties, r#"{"customer_id":1}"#).await;
            assert_eq!(world.outcome().await["status"], "unlocked", "{reply_to}");
        }
        // The line is repeated once a minute at most; the queues below are the proof.
        let ignored = |line: &str| line.contains("\"reply_ignored\"");
        world.worker.wait_for_line(ignored, SOON).await;
        let requests = world.trackfinity.count();
        world.stop().await;
        for queue in &names {
            assert_eq!(world.amqp.ready_count(queue).await, 0, "{queue}");
        }
        assert_eq!(world.trackfinity.count(), requests, "no outcome came back as a request");
    });
}
