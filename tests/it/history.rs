//! The history: outcomes are kept in a stream, and every search finds all that match.

mod follow;
mod random;

use std::time::Duration;

use futures_util::{StreamExt, stream};
use kit::{Amqp, Answer, Context, FieldTable, Program};
use lapin::{Channel, options::BasicPublishOptions};
use serde_json::Value;
use trackfinity_unlocker::{
    broker::{
        Topology,
        stream::{Start, Stream},
    },
    history::{Found, HistoryError, Outcomes, Query},
    message::{Outcome, Status, Timestamp, request},
    settings::{History, TopologyPrefix},
};

use crate::world::{RESULTS, SOON, World, id};

const STREAM: &str = "trackfinity.unlock.history";
const HOUR: i64 = 3_600_000;

fn kept() -> History {
    History { enabled: true, max_age: Duration::from_secs(86_400), max_bytes: 500_000_000 }
}

async fn declare(amqp: &Amqp) {
    let prefix = TopologyPrefix::parse("trackfinity.unlock").expect("a prefix");
    let topology = Topology::new(&prefix).with_history(&kept());
    topology.declare(amqp.connection()).await.expect("declared");
}

/// An outcome of a request that gives these identifiers.
fn outcome(number: usize, identifiers: &str, status: Status, age_ms: i64) -> Outcome {
    let decoded = request::decode(None, identifiers.as_bytes());
    Outcome {
        status,
        request_id: format!("r-{number}"),
        request: decoded.request.ok().map(|request| request.identifiers().clone()),
        attempts: 1,
        http_status: None,
        reason: (status != Status::Unlocked).then(|| format!("http_{}", 400 + number % 3)),
        detail: None,
        replays: 0,
        first_received_at: Timestamp::EPOCH,
        finished_at: Timestamp::from_millis(Timestamp::now().as_millis() - age_ms),
        requested_by: None,
    }
}

/// Publishes as the worker does; as an older one did, without the header of the filter.
async fn publish(channel: &Channel, outcome: &Outcome, is_old: bool) {
    let mut properties = outcome.properties(None);
    if !is_old {
        properties = outcome.with_headers(properties, FieldTable::default(), true);
    }
    let body = outcome.encode().expect("encodes");
    let key = outcome.status.routing_key().into();
    let options = BasicPublishOptions::default();
    let confirm = channel.basic_publish(RESULTS.into(), key, options, &body, properties).await;
    confirm.expect("written").await.expect("confirmed");
}

async fn channel(amqp: &Amqp) -> Channel {
    let channel = amqp.channel().await;
    channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.expect("confirms");
    channel
}

async fn search(amqp: &Amqp, query: &Query) -> Result<Vec<String>, HistoryError> {
    let found = Outcomes::search(amqp.connection(), STREAM, query, usize::MAX, |_| ()).await?.found;
    Ok(found.into_iter().map(|found| found.outcome.request_id).collect())
}

#[test]
fn a_history_that_is_empty_or_off_is_told_apart() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        let query = Query::default();
        assert!(matches!(search(&amqp, &query).await, Err(HistoryError::Off(stream)) if stream == STREAM));
        declare(&amqp).await;
        assert!(search(&amqp, &query).await.expect("searched").is_empty());
        publish(&channel(&amqp).await, &outcome(1, "{}", Status::Invalid, 0), false).await;
        assert_eq!(search(&amqp, &query).await.expect("searched"), ["r-1"]);
        let since = |minutes: i64| Query {
            since: Some(Timestamp::from_millis(Timestamp::now().as_millis() + minutes * 60_000)),
            ..Query::default()
        };
        assert_eq!(search(&amqp, &since(-1)).await.expect("searched"), ["r-1"]);
        for minutes in [0, 10, 60 * 24 * 365] {
            assert!(search(&amqp, &since(minutes)).await.expect("searched").is_empty(), "{minutes}");
        }
    });
}

#[test]
fn a_search_says_how_far_it_looked_back_also_where_rabbitmq_filters() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        declare(&amqp).await;
        let publishing = channel(&amqp).await;
        for (number, age) in [(1, HOUR), (2, 0)] {
            let identifiers = format!(r#"{{"customer_id":"{number}"}}"#);
            publish(&publishing, &outcome(number, &identifiers, Status::Unlocked, age), false).await;
        }
        let query = Query { customer_id: Some("3".to_owned()), ..Query::default() };
        let outcomes =
            Outcomes::search(amqp.connection(), STREAM, &query, 1, |_| ()).await.expect("searched");
        let from = outcomes.from.expect("there are outcomes");
        assert!(Timestamp::now().since(from) >= Duration::from_secs(3600), "from {from}");
    });
}

#[test]
fn a_long_history_is_read_by_several_readers_and_nothing_is_missed_or_doubled() {
    const COUNT: usize = 21_000;
    kit::run_within(SOON * 3, async |ctx| {
        let amqp = ctx.amqp().await;
        declare(&amqp).await;
        let publishing = channel(&amqp).await;
        let identifiers = |n: usize| match n % 1000 {
            7 => r#"{"customer_id":"7"}"#.to_owned(),
            // This has no filter value.
            8 => r#"{"customer_id":"7","orderid":"1"}"#.to_owned(),
            _ => format!(r#"{{"customer_id":"c-{n}"}}"#),
        };
        let outcomes: Vec<_> = (0..COUNT).map(|n| outcome(n, &identifiers(n), Status::Unlocked, 0)).collect();
        let publishes = outcomes.iter().map(|outcome| publish(&publishing, outcome, false));
        stream::iter(publishes).buffered(500).collect::<Vec<()>>().await;
        let ids = |numbers: Vec<usize>| -> Vec<String> {
            numbers.into_iter().rev().map(|n| format!("r-{n}")).collect()
        };
        let all = search(&amqp, &Query::default()).await.expect("searched");
        assert!(all == ids((0..COUNT).collect()), "{} found", all.len());
        let query = Query { customer_id: Some("7".to_owned()), ..Query::default() };
        let expected = ids((0..COUNT).filter(|n| [7, 8].contains(&(n % 1000))).collect());
        assert_eq!(search(&amqp, &query).await.expect("searched"), expected);
        let mut reports = Vec::new();
        let report = |progress| reports.push(progress);
        let few = Outcomes::search(amqp.connection(), STREAM, &query, 30, report).await.expect("searched");
        let found: Vec<_> = few.found.into_iter().map(|found| found.outcome.request_id).collect();
        assert_eq!((found.as_slice(), few.left_out), (&expected[..30], 12));
        let last = reports.last().expect("a report");
        assert!(last.span >= COUNT as u64 && last.passed == last.span, "{last:?}");
    });
}

#[test]
fn a_worker_whose_clock_is_ahead_does_not_stop_a_search() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        declare(&amqp).await;
        let minutes = |minutes: i64| minutes * 60_000;
        let ahead = outcome(1, "{}", Status::Invalid, minutes(-10));
        publish(&channel(&amqp).await, &ahead, false).await;
        let since = Some(Timestamp::from_millis(Timestamp::now().as_millis() + minutes(5)));
        let query = Query { since, ..Query::default() };
        assert_eq!(search(&amqp, &query).await.expect("searched"), ["r-1"]);
    });
}

#[test]
fn an_entry_is_read_by_its_offset_also_out_of_a_large_chunk() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        declare(&amqp).await;
        let publishing = channel(&amqp).await;
        // All at once, so that RabbitMQ puts many into a chunk.
        let outcomes: Vec<_> = (0..500).map(|n| outcome(n, "{}", Status::Invalid, 0)).collect();
        futures_util::future::join_all(outcomes.iter().map(|outcome| publish(&publishing, outcome, false)))
            .await;
        let stream = Stream::new(amqp.connection(), STREAM);
        for offset in [0, 1, 57, 250, 499] {
            let entry = stream.entry_at(Start::Offset(offset), SOON).await.expect("read");
            let found = Found::read(&entry).expect("an outcome");
            assert_eq!((entry.offset, found.outcome.request_id), (offset, format!("r-{offset}")));
        }
    });
}

#[test]
fn what_is_no_outcome_does_not_hide_outcomes_nor_makes_the_history_empty() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        declare(&amqp).await;
        amqp.publish(RESULTS, "unlock.other", lapin::BasicProperties::default(), b"no JSON").await;
        let program = || history(ctx.amqp_url());
        let (code, lines, said) = run(&ctx, program()).await;
        assert_eq!((code, lines.len()), (Some(0), 0));
        assert!(said[0].starts_with("nothing in the whole history"), "{said:#?}");
        let outcome = outcome(1, r#"{"customer_id":"1"}"#, Status::Unlocked, 0);
        let body: Value = serde_json::from_slice(&outcome.encode().expect("encodes")).expect("JSON");
        let pretty = serde_json::to_string_pretty(&body).expect("JSON");
        amqp.publish(RESULTS, "unlock.unlocked", lapin::BasicProperties::default(), pretty.as_bytes()).await;
        let (_, lines, _) = run(&ctx, program().arg("--json")).await;
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert_eq!(serde_json::from_str::<Value>(&lines[0]).expect("JSON"), body);
    });
}

fn history(amqp_url: &str) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker")).env("UNLOCKER__BROKER__URL", amqp_url).arg("history")
}

async fn run(ctx: &Context, program: Program) -> (Option<i32>, Vec<String>, Vec<String>) {
    let process = ctx.start(&program);
    let code = process.wait_exit(SOON).await.code();
    (code, process.stdout(), process.stderr())
}

#[test]
fn the_command_tells_what_became_of_a_customer() {
    kit::run(async |ctx| {
        let world = World::start_with(ctx, &[("HISTORY__ENABLED", "true")], |call| {
            match call.field("customer_id").as_deref() {
                Some("404") => Answer::status(400),
                _ => Answer::unlocked(),
            }
        })
        .await;
        let shop = |message_id: &str| id(message_id).with_app_id("shop".into());
        world.publish(shop("a"), r#"{"customer_id":191}"#).await;
        world.publish(shop("b"), r#"{"customer_id":404}"#).await;
        world.publish(shop("c"), r#"{"customer_id":191,"orderid":7}"#).await;
        world.outcomes(3).await;
        let (ctx, url) = (&world.ctx, world.ctx.amqp_url());
        let (code, lines, _) = run(ctx, history(url).args(["--customer-id", "191"])).await;
        assert_eq!(code, Some(0));
        assert_eq!(lines.len(), 3, "a heading and two outcomes: {lines:#?}");
        let is_told =
            |line: &String| ["unlocked", "customer_id=191", "shop"].iter().all(|&it| line.contains(it));
        assert!(lines.iter().skip(1).all(is_told), "{lines:#?}");
        let (_, lines, _) = run(ctx, history(url).args(["--customer-id", "404", "--json"])).await;
        let refused: Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!((&refused["reason"], &refused["requested_by"]), (&"http_400".into(), &"shop".into()));
        let (_, lines, said) = run(ctx, history(url).args(["--limit", "1", "--since", "1h"])).await;
        assert_eq!((lines.len(), said), (2, vec!["2 older ones are left out: see --limit".to_owned()]));
        let (code, _, said) = run(ctx, history(url).args(["--since", "1h", "--until", "2h"])).await;
        assert_eq!(code, Some(1));
        assert!(said[0].contains("nothing can match: --since is 20"), "{said:#?}");
        let (_, _, said) = run(ctx, history(url).args(["--until", "2h"])).await;
        assert!(said[0].starts_with("nothing until 20") && said[0].contains("begins at 20"), "{said:#?}");
        let (code, lines, said) = run(ctx, history(url).args(["--customer-id", "7"])).await;
        assert_eq!((code, lines.len()), (Some(0), 0));
        assert!(
            said[0].starts_with("nothing since 20") && said[0].ends_with("; no request waits"),
            "{said:#?}"
        );
    });
}

#[test]
fn turned_off_again_the_stream_is_left_alone_and_that_is_said() {
    kit::run(async |ctx| {
        let world = World::start_with(ctx, &[("HISTORY__ENABLED", "true")], |_| Answer::unlocked()).await;
        world.unlock("a").await;
        world.outcomes(1).await;
        world.stop().await;
        let worker =
            crate::world::start_worker(&world.ctx, world.ctx.amqp_url(), &world.trackfinity.url(), &[]).await;
        worker.wait_for_line(|line| line.contains(r#""event":"history_remains""#), SOON).await;
        world.unlock("b").await;
        world.outcomes(2).await;
        let all = search(&world.amqp, &Query::default()).await.expect("searched");
        assert_eq!(all, ["b", "a"]);
        // Another retention must not stop a worker: the stream is as it is.
        let changed = [("HISTORY__ENABLED", "true"), ("HISTORY__MAX_AGE", "7d")];
        crate::world::start_worker(&world.ctx, world.ctx.amqp_url(), &world.trackfinity.url(), &changed)
            .await;
    });
}
