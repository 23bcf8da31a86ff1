//! The publisher with a real RabbitMQ: what delays one publish delays no other, and ends no session.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, future::join_all};
use kit::{Amqp, Context, FieldTable, NodeOptions, Properties};
use trackfinity_unlocker::{
    broker::{
        Connector, Lane, Mandatory, PublishError, ReplyPublisher, Session,
        publisher::Outgoing,
        session::{SessionEvent, SessionEvents},
    },
    secret::Secret,
    settings::{Broker, BrokerUrls},
};

use crate::world::SOON;

const QUEUE: &str = "messages";
const REQUESTS: Mandatory = Mandatory::Required(Lane::Requests);

fn connector(url: &str) -> Connector {
    Connector::new(&Broker::with_url(Secret::fixed(url.to_owned())))
}

async fn session(url: &str) -> (Session, SessionEvents) {
    Session::open(&connector(url)).await.expect("a session")
}

/// A message for a queue, through the default exchange.
fn message<'a>(queue: &'a str, body: &'a [u8]) -> Outgoing<'a> {
    Outgoing { exchange: "", routing_key: queue, properties: Properties::default(), body }
}

pub async fn quorum_queue(amqp: &Amqp, queue: &str) {
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), kit::AMQPValue::LongString("quorum".into()));
    amqp.declare_queue(queue, quorum).await;
}

pub async fn suspend(ctx: &Context, queue: &str, suspended: bool) {
    let server = format!("'{}_{queue}'", ctx.vhost().name());
    let action = if suspended { "suspend" } else { "resume" };
    ctx.node().rabbitmqctl(&["eval", &format!("sys:{action}({server}).")]).await.expect("done");
}

/// Asserts that nothing ended the session.
fn assert_lives(session: &Session, events: &mut SessionEvents) {
    assert!(session.consuming().status().connected());
    while let Some(Some(event)) = events.next().now_or_never() {
        assert!(!matches!(event, SessionEvent::Lost(_)), "{event:?}");
    }
}

#[test]
fn a_message_whose_transfer_takes_long_is_published_once() {
    kit::run_within(SOON * 3, async |ctx| {
        let (line, url) = ctx.cutter().await;
        let amqp = ctx.amqp().await;
        amqp.declare_queue(QUEUE, FieldTable::default()).await;
        let (session, _events) = session(&url).await;
        line.throttle(500_000);
        let body = vec![b'x'; 7_500_000];
        let started = Instant::now();
        let routed = session.publisher().publish(&message(QUEUE, &body), REQUESTS).await;
        assert!(routed.expect("published"));
        assert!(started.elapsed() > Duration::from_secs(11), "{:?}: no slow line", started.elapsed());
        assert_eq!(amqp.ready_count(QUEUE).await, 1);
        line.throttle(0);
        session.close().await;
    });
}

#[test]
fn with_few_channels_publishes_wait_for_each_other_and_the_session_continues() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        amqp.declare_queue(QUEUE, FieldTable::default()).await;
        for channels in [16, 2] {
            let url = format!("{}?channel_max={channels}", ctx.amqp_url());
            let (session, mut events) = session(&url).await;
            let kinds = [
                REQUESTS,
                Mandatory::Reported,
                Mandatory::Required(Lane::DeadLetters),
                Mandatory::Required(Lane::Outcomes),
            ];
            let all = kinds
                .iter()
                .cycle()
                .take(200)
                .map(async |kind| session.publisher().publish(&message(QUEUE, b"x"), *kind).await);
            for published in join_all(all).await {
                assert!(published.expect("published"));
            }
            assert_lives(&session, &mut events);
            session.close().await;
            assert_eq!(amqp.drain(QUEUE).await.len(), 200);
        }
    });
}

#[test]
fn however_many_channels_rabbitmq_closed_the_next_publish_goes_out() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        amqp.declare_queue(QUEUE, FieldTable::default()).await;
        let url = format!("{}?channel_max=32", ctx.amqp_url());
        let (session, mut events) = session(&url).await;
        // Three times as many as the connection has channel numbers.
        for n in 0..100 {
            let key = n.to_string();
            let message = Outgoing { exchange: "missing", routing_key: &key, ..message("", b"x") };
            let error = session.publisher().publish(&message, REQUESTS).await.expect_err("no exchange");
            assert!(error.to_string().contains("no exchange 'missing'"), "{n}: {error}");
        }
        for n in 0..50 {
            let routed = session.publisher().publish(&message(QUEUE, b"x"), REQUESTS).await;
            assert!(routed.unwrap_or_else(|error| panic!("{n}: {error}")));
        }
        assert_lives(&session, &mut events);
        session.close().await;
    });
}

#[test]
fn while_an_exchange_refuses_one_publish_tries_and_after_a_success_all_are_published() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        let (session, _events) = session(ctx.amqp_url()).await;
        let missing = Outgoing { exchange: "late", routing_key: "k", ..message("", b"x") };
        session.publisher().publish(&missing, Mandatory::Reported).await.expect_err("no exchange");
        let until_published = async || {
            let mut refusals = 0;
            while let Err(error) = session.publisher().publish(&missing, Mandatory::Reported).await {
                assert!(matches!(error, PublishError::ExchangeRefused(_)), "{error}");
                refusals += 1;
                if refusals == 1 {
                    declare_exchange(&amqp, "late").await;
                }
            }
            refusals
        };
        let refusals = join_all((0..64).map(|_| until_published())).await;
        let refused: u32 = refusals.into_iter().sum();
        assert!((1..10).contains(&refused), "{refused} of 64 met a closed channel");
        session.close().await;
    });
}

async fn declare_exchange(amqp: &Amqp, exchange: &str) {
    let channel = amqp.channel().await;
    let kind = lapin::ExchangeKind::Fanout;
    channel
        .exchange_declare(exchange.into(), kind, Default::default(), FieldTable::default())
        .await
        .expect("declared");
}

#[test]
fn a_lost_publishing_connection_is_replaced_while_the_session_lives() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        amqp.declare_queue(QUEUE, FieldTable::default()).await;
        let (session, mut events) = session(ctx.amqp_url()).await;
        let management = ctx.vhost().management();
        let mut name = String::new();
        kit::eventually("the connection is listed", SOON, async || {
            let all = management.connections().await;
            let publishing = all.iter().find(|connection| {
                connection["client_properties"]["connection_name"]
                    .as_str()
                    .is_some_and(|name| name.ends_with("publishes"))
            });
            name =
                publishing.and_then(|connection| connection["name"].as_str()).unwrap_or_default().to_owned();
            !name.is_empty()
        })
        .await;
        management.close_connection(&name).await;
        // A publish on the lost connection fails; the next ones wait for the new connection.
        kit::eventually("publishes go out again", SOON, async || {
            match session.publisher().publish(&message(QUEUE, b"x"), REQUESTS).await {
                Ok(routed) => routed,
                Err(PublishError::Lost(_)) => false,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
        assert_lives(&session, &mut events);
        session.close().await;
    });
}

#[test]
fn outcomes_that_hang_leave_retries_their_channels_and_may_be_dropped() {
    kit::run_on_own_node_within(SOON * 4, NodeOptions::default(), async |ctx| {
        let amqp = ctx.amqp().await;
        amqp.declare_queue(QUEUE, FieldTable::default()).await;
        quorum_queue(&amqp, "stuck").await;
        let url = format!("{}?channel_max=64", ctx.amqp_url());
        let (session, mut events) = session(&url).await;
        let publisher = session.publisher();
        suspend(&ctx, "stuck", true).await;
        // More than the lane has channels.
        let hanging: Vec<_> = (0..100)
            .map(|_| {
                let publisher = publisher.clone();
                tokio::spawn(async move {
                    publisher.publish(&message("stuck", b"x"), Mandatory::Required(Lane::Outcomes)).await
                })
            })
            .collect();
        for _ in 0..50 {
            assert!(publisher.publish(&message(QUEUE, b"x"), REQUESTS).await.expect("published"));
            let lane = Mandatory::Required(Lane::DeadLetters);
            assert!(publisher.publish(&message(QUEUE, b"x"), lane).await.expect("published"));
            assert!(publisher.publish(&message(QUEUE, b"x"), Mandatory::Reported).await.expect("published"));
        }
        for publish in &hanging {
            publish.abort();
        }
        suspend(&ctx, "stuck", false).await;
        let lane = Mandatory::Required(Lane::Outcomes);
        assert!(publisher.publish(&message(QUEUE, b"x"), lane).await.expect("published"));
        assert_lives(&session, &mut events);
        session.close().await;
    });
}

#[test]
fn a_reply_is_sent_with_the_password_that_the_file_holds_now() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        amqp.declare_queue(QUEUE, FieldTable::default()).await;
        let management = ctx.vhost().management();
        let user = format!("rotated-{}", ctx.vhost().name());
        management.create_user(&user, "old", "").await;
        management.set_permissions(&user, "", ".*", "").await;
        let file = std::env::temp_dir().join(format!("unlocker-url-{user}"));
        std::fs::write(&file, ctx.vhost().amqp_url_as(&user, "old")).expect("written");
        let check = |urls: &str| BrokerUrls::parse(urls).map(drop).map_err(|error| error.to_string());
        let urls = Secret::open(&file, check).expect("a URL");
        let connector = Connector::new(&Broker::with_url(urls));
        let replies = ReplyPublisher::new(connector);
        management.create_user(&user, "new", "").await;
        std::fs::write(&file, ctx.vhost().amqp_url_as(&user, "new")).expect("written");
        let sent = replies.send(&message(QUEUE, b"x"), Mandatory::Required(Lane::Outcomes)).await;
        std::fs::remove_file(&file).expect("removed");
        management.delete_user(&user).await;
        sent.expect("sent");
        assert_eq!(amqp.ready_count(QUEUE).await, 1);
        replies.close().await;
    });
}

#[test]
fn replies_do_not_wait_for_a_first_address_that_is_mute() {
    kit::run_within(SOON * 3, async |ctx| {
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let first = format!("amqp://{}", mute.local_addr().expect("an address"));
        let amqp = ctx.amqp().await;
        amqp.declare_queue(QUEUE, FieldTable::default()).await;
        let connector = connector(&format!("{first},{}", ctx.amqp_url()));
        let (session, _events) = Session::open(&connector).await.expect("a session");
        let replies = ReplyPublisher::new(connector);
        let all = (0..200).map(async |_| replies.send(&message(QUEUE, b"x"), Mandatory::Off).await);
        for sent in join_all(all).await {
            sent.expect("sent");
        }
        assert_eq!(amqp.ready_count(QUEUE).await, 200);
        tokio::join!(replies.close(), session.close());
    });
}
