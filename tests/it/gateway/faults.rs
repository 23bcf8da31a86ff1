//! Faults of RabbitMQ under a gateway. What is answered as taken has its outcome; what is answered as not
//! taken has none; nothing hangs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use kit::{Amqp, Answer, FieldTable, NodeOptions, Trackfinity};

use super::world::{Front, Gateway, json, problem};
use crate::{
    rights::User,
    world::{EXCHANGE, REQUEST, REQUESTS, RESULTS, SOON, World, start_worker},
};

const BODY: &str = r#"{"customer_id":191}"#;
const LEDGER: &str = "ledger";
const LONG: Duration = Duration::from_secs(150);

/// Asserts that an answer says that the request was not taken.
#[track_caller]
fn assert_not_taken(answer: &crate::console::http::Response, code: &str) {
    assert_eq!(problem(answer), (503, code.to_owned(), Some("no".to_owned())), "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
}

/// What clients were answered, by the id of their request.
#[derive(Default)]
struct Answers {
    by_id: Mutex<BTreeMap<String, (u16, Option<String>)>>,
    taken: AtomicUsize,
    not_taken: AtomicUsize,
    enough: AtomicBool,
}

impl Answers {
    /// Sends one request after the other until it is enough.
    async fn collect(&self, gateway: &Gateway, client: usize) {
        for n in 0_usize.. {
            if self.enough.load(Ordering::SeqCst) {
                return;
            }
            let id = format!("{client}-{n}");
            let mut request = json(BODY).header("idempotency-key", &id);
            if n.is_multiple_of(2) {
                request = request.header("prefer", "wait=3");
            }
            let answer = gateway.post(request).await;
            let taken = match answer.status {
                200 | 202 => {
                    self.taken.fetch_add(1, Ordering::SeqCst);
                    None
                }
                _ => {
                    self.not_taken.fetch_add(1, Ordering::SeqCst);
                    // As a client that was told when to try again, though much sooner.
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    problem(&answer).2
                }
            };
            let known =
                self.by_id.lock().expect("no panic").insert(format!("local/{id}"), (answer.status, taken));
            assert!(known.is_none());
        }
    }

    async fn wait_more_taken(&self, count: usize) {
        wait_more("taken", &self.taken, count).await;
    }

    async fn wait_more_not_taken(&self, count: usize) {
        wait_more("not taken", &self.not_taken, count).await;
    }
}

async fn wait_more(what: &str, counter: &AtomicUsize, count: usize) {
    let enough = counter.load(Ordering::SeqCst) + count;
    kit::eventually(what, LONG, async || match counter.load(Ordering::SeqCst) {
        seen if seen >= enough => Ok(()),
        seen => Err(format!("{seen} of {enough}")),
    })
    .await;
}

async fn collect_outcomes(amqp: &Amqp, ids: &mut BTreeSet<String>) {
    for outcome in amqp.drain(LEDGER).await {
        assert_eq!(outcome.json()["status"], "unlocked", "{}", outcome.text());
        ids.insert(crate::world::text(&outcome.json()["request_id"]));
    }
}

/// Eight clients send while `trouble` makes trouble. Then every request that was answered as taken has its
/// outcome, and none that was answered as not taken has one.
async fn send_during(
    ctx: &kit::Context,
    worker: &[(&str, &str)],
    trackfinity: impl Fn(&kit::Call) -> Answer + Send + Sync + 'static,
    trouble: impl AsyncFnOnce(&Answers),
) {
    const CLIENTS: usize = 8;
    let trackfinity = Trackfinity::start(trackfinity);
    let worker = start_worker(ctx, ctx.amqp_url(), &trackfinity.url(), worker).await;
    let amqp = ctx.amqp().await;
    amqp.declare_queue(LEDGER, FieldTable::default()).await;
    amqp.bind(LEDGER, RESULTS, "unlock.#").await;
    let gateway = Gateway::start(ctx, ctx.amqp_url(), &[]).await;
    let answers = Answers::default();
    let clients = join_all((0..CLIENTS).map(|client| answers.collect(&gateway, client)));
    let trouble = async {
        trouble(&answers).await;
        answers.enough.store(true, Ordering::SeqCst);
    };
    tokio::join!(clients, trouble);
    let answers = answers.by_id.into_inner().expect("no panic");
    let amqp = ctx.amqp().await;
    let mut outcomes = BTreeSet::new();
    kit::eventually("every request that was taken has its outcome", LONG, async || {
        collect_outcomes(&amqp, &mut outcomes).await;
        let is_missing = |(id, (status, _)): &(&String, &(u16, Option<String>))| {
            matches!(status, 200 | 202) && !outcomes.contains(*id)
        };
        let missing: Vec<_> = answers.iter().filter(is_missing).map(|(id, _)| id).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("missing: {missing:?}")) }
    })
    .await;
    kit::eventually("no request is left", SOON, async || amqp.ready_count(REQUESTS).await == 0).await;
    worker.signal(kit::Signal::TERM);
    assert!(worker.wait_exit(SOON).await.success());
    assert_eq!(amqp.ready_count(REQUESTS).await, 0);
    collect_outcomes(&amqp, &mut outcomes).await;
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    let mut late = 0;
    for (id, (status, taken)) in &answers {
        *counts.entry(*status).or_default() += 1;
        match status {
            200 | 202 => {}
            503 => {
                assert_eq!(taken.as_deref(), Some("no"), "{id}");
                assert!(!outcomes.contains(id), "{id} was answered 503 and has an outcome");
            }
            504 => {
                assert_eq!(taken.as_deref(), Some("unknown"), "{id}");
                late += usize::from(outcomes.contains(id));
            }
            other => panic!("{id} was answered {other}"),
        }
    }
    eprintln!("{CLIENTS} clients: {counts:?}; {late} of those answered 504 had been taken");
}

#[test]
fn a_broker_that_is_killed_three_times_makes_no_answer_a_lie() {
    kit::run_on_own_node_within(LONG * 2, NodeOptions::default(), async |ctx| {
        send_during(
            &ctx,
            &[],
            |_| Answer::unlocked(),
            async |answers| {
                for _ in 0..3 {
                    answers.wait_more_taken(200).await;
                    ctx.node().kill().await;
                    answers.wait_more_not_taken(50).await;
                    ctx.node().restart().await;
                }
                answers.wait_more_taken(200).await;
            },
        )
        .await;
    });
}

#[test]
fn a_binding_that_comes_and_goes_makes_no_answer_a_lie() {
    kit::run_within(LONG, async |ctx| {
        let management = ctx.vhost().management();
        let amqp = ctx.amqp().await;
        send_during(
            &ctx,
            &[],
            |_| Answer::unlocked(),
            async |answers| {
                for _ in 0..5 {
                    answers.wait_more_taken(100).await;
                    management.delete_binding(EXCHANGE, REQUESTS, REQUEST).await;
                    answers.wait_more_not_taken(20).await;
                    amqp.bind(REQUESTS, EXCHANGE, REQUEST).await;
                }
                answers.wait_more_taken(100).await;
            },
        )
        .await;
    });
}

#[test]
fn a_queue_that_is_full_now_and_then_makes_no_answer_a_lie() {
    kit::run_within(LONG, async |ctx| {
        let policy = serde_json::json!({"max-length": 2, "overflow": "reject-publish"});
        ctx.vhost().management().set_policy("full", &format!("^{REQUESTS}$"), policy).await;
        // Slower than the clients.
        let slow = |_: &kit::Call| Answer::unlocked().after(Duration::from_millis(500));
        send_during(&ctx, &[("WORKER__CONCURRENCY", "2")], slow, async |answers| {
            for _ in 0..3 {
                answers.wait_more_taken(10).await;
                answers.wait_more_not_taken(20).await;
            }
        })
        .await;
    });
}

#[test]
fn a_deleted_queue_is_answered_503_until_it_is_back() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        front.world.stop().await;
        front.world.ctx.vhost().management().delete_queue(REQUESTS).await;
        for _ in 0..20 {
            assert_not_taken(&front.unlock(BODY).await, "unroutable");
        }
        let (ctx, trackfinity) = (&front.world.ctx, &front.world.trackfinity);
        let _worker = start_worker(ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        assert_eq!(front.unlock(BODY).await.status, 202);
        front.world.outcome().await;
        assert_eq!(front.world.outcomes.len(), 1, "a request that was answered 503 was taken");
    });
}

#[test]
fn an_alarm_hangs_nobody_and_makes_no_answer_a_lie() {
    kit::run_on_own_node(NodeOptions::default(), async |ctx| {
        let front = Front::start(ctx).await;
        let post = async |n: usize, wait: &str| {
            let begun = Instant::now();
            let request = json(BODY).header("idempotency-key", &n.to_string()).header("prefer", wait);
            (n, front.gateway.post(request).await, begun.elapsed())
        };
        assert_eq!(post(1000, "wait=20").await.1.status, 200);
        front.world.ctx.node().memory_alarm(true).await;
        let mut answers = join_all((0..50).map(|n| post(n, "wait=20"))).await;
        for (n, answer, took) in &answers {
            assert!(matches!(answer.status, 503 | 504), "{n}: {answer:?}");
            assert!(*took < Duration::from_millis(2500), "{n}: {took:?} {answer:?}");
        }
        let (_, answer, took) = post(1001, "wait=20").await;
        assert_not_taken(&answer, "broker_blocked");
        assert!(took < Duration::from_millis(500), "{took:?}");
        let not_ready = front.gateway.wait_ready(503).await;
        assert_eq!(not_ready.json()["code"], "publish");
        answers.push((1001, answer, took));
        front.world.ctx.node().memory_alarm(false).await;
        front.gateway.wait_ready(200).await;
        let (_, answer, _) = post(1002, "wait=20").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        front.world.stop().await;
        let outcomes: BTreeSet<String> = front
            .world
            .outcomes
            .all()
            .iter()
            .map(|of| crate::world::text(&of.json()["request_id"]))
            .collect();
        for (n, answer, _) in answers.iter().filter(|(_, answer, _)| answer.status == 503) {
            assert!(!outcomes.contains(&format!("local/{n}")), "{answer:?}");
        }
    });
}

#[test]
fn a_gateway_that_starts_during_an_alarm_does_not_hang() {
    kit::run_on_own_node(NodeOptions::default(), async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.ctx.node().memory_alarm(true).await;
        let gateway = Gateway::begin(&world.ctx, world.ctx.amqp_url(), &[]).await;
        gateway.wait_ready(200).await;
        let begun = Instant::now();
        // RabbitMQ tells a connection only when it publishes.
        let first = gateway.post(json(BODY).header("prefer", "wait=20")).await;
        assert!(matches!(first.status, 503 | 504), "{first:?}");
        assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
        kit::eventually("the alarm is known", SOON, async || {
            let answer = gateway.post(json(BODY)).await;
            if problem(&answer).1 == "broker_blocked" { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        world.ctx.node().memory_alarm(false).await;
        gateway.wait_ready(200).await;
        kit::eventually("outcomes are received", SOON, async || gateway.events("replies_received") > 0).await;
        let answer = gateway.post(json(BODY).header("prefer", "wait=20")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    });
}

#[test]
fn a_frozen_broker_is_answered_in_time_and_then_noticed() {
    kit::run_on_own_node_within(LONG, NodeOptions::default(), async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let url = format!("{}?heartbeat=8", world.ctx.amqp_url());
        let gateway = Gateway::start(&world.ctx, &url, &[]).await;
        assert_eq!(gateway.post(json(BODY)).await.status, 202);
        world.ctx.node().freeze().await;
        let frozen = Instant::now();
        let post = async |key: Option<usize>| {
            let request = json(BODY);
            let answer = gateway
                .post(match key {
                    Some(key) => request.header("idempotency-key", &key.to_string()),
                    None => request,
                })
                .await;
            (answer, frozen.elapsed())
        };
        // Repeats wait for the first with their key, and must not wait one after the other.
        let repeats = join_all((0..20).map(|_| post(Some(0))));
        let others = join_all((0..150).map(|_| post(None)));
        let (repeats, others) = tokio::join!(repeats, others);
        let mut counts: BTreeMap<(u16, String), usize> = BTreeMap::new();
        for (answer, took) in repeats.iter().chain(&others) {
            let (status, code, taken) = problem(answer);
            let expected = if status == 503 { "no" } else { "unknown" };
            assert!(matches!(status, 503 | 504) && taken.as_deref() == Some(expected), "{answer:?}");
            assert!(*took < Duration::from_secs(22), "{took:?} {answer:?}");
            *counts.entry((status, code)).or_default() += 1;
        }
        eprintln!("{counts:?}");
        assert!(counts.contains_key(&(504, "no_confirm".to_owned())), "{counts:?}");
        gateway.wait_ready(503).await;
        eprintln!("noticed after {:?}", frozen.elapsed());
        let begun = Instant::now();
        assert_not_taken(&post(None).await.0, "broker_unreachable");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        world.ctx.node().thaw().await;
        gateway.wait_ready(200).await;
        assert_eq!(post(None).await.0.status, 202);
    });
}

#[test]
fn a_missing_right_is_named_in_the_log_and_its_grant_needs_no_restart() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let user = User::create(&world.ctx, "producer").await;
        let nothing = "^$".to_owned();
        user.grant(&[nothing.clone(), nothing.clone(), nothing.clone()]).await;
        let gateway = Gateway::begin(&world.ctx, &user.url(), &[]).await;
        gateway.wait_ready(200).await;
        for _ in 0..5 {
            let begun = Instant::now();
            assert_not_taken(&gateway.post(json(BODY)).await, "exchange_refused");
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        }
        let names_it = |line: &str| line.contains("request_not_published") && line.contains("ACCESS_REFUSED");
        let line = gateway.process.wait_for_line(names_it, SOON).await;
        assert!(line.contains(EXCHANGE) && line.contains(&user.name), "{line}");
        user.grant(&[nothing.clone(), EXCHANGE.replace('.', r"\."), nothing]).await;
        kit::eventually("requests are taken", SOON, async || {
            let answer = gateway.post(json(BODY)).await;
            if answer.status == 202 { Ok(()) } else { Err(answer.body) }
        })
        .await;
        kit::eventually("outcomes are received", SOON, async || gateway.events("replies_received") > 0).await;
        let answer = gateway.post(json(BODY).header("prefer", "wait=20")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        user.delete().await;
    });
}

#[test]
fn a_deleted_vhost_is_answered_503_until_it_is_back() {
    kit::run_on_own_node_within(LONG, NodeOptions::default(), async |ctx| {
        let front = Front::start(ctx).await;
        assert_eq!(front.unlock(BODY).await.status, 202);
        let vhost = front.world.ctx.vhost();
        let (path, user) = (format!("/api/vhosts/{}", vhost.name()), "guest");
        vhost.management().delete(&path).await.expect("deleted");
        front.gateway.wait_ready(503).await;
        assert_not_taken(&front.unlock(BODY).await, "broker_unreachable");
        let names_it = |line: &str| line.contains("not_publishing") && line.contains(vhost.name());
        front.gateway.process.wait_for_line(names_it, SOON).await;
        vhost.management().put(&path, serde_json::json!({})).await.expect("created");
        vhost.management().set_permissions(user, ".*", ".*", ".*").await;
        kit::eventually("requests are taken", LONG, async || {
            let answer = front.unlock(BODY).await;
            if answer.status == 202 { Ok(()) } else { Err(answer.body) }
        })
        .await;
    });
}

#[test]
fn a_changed_password_costs_nothing_until_the_connection_is_lost_and_then_the_file_is_read() {
    kit::run_within(LONG, async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let user = User::create(&world.ctx, "rotated").await;
        let all = ".*".to_owned();
        user.grant(&[all.clone(), all.clone(), all]).await;
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("url");
        std::fs::write(&file, user.url()).expect("written");
        let path = file.to_str().expect("UTF-8");
        let gateway = Gateway::start(&world.ctx, "", &[("BROKER__URL_FILE", path)]).await;
        let management = world.ctx.vhost().management();
        management.create_user(&user.name, "new", "").await;
        assert_eq!(gateway.post(json(BODY)).await.status, 202, "its connection is open");
        kit::eventually("its connections are closed", SOON, async || {
            let connections = management.connections().await;
            let own: Vec<_> = connections.iter().filter(|of| of["user"] == user.name.as_str()).collect();
            for connection in &own {
                management.close_connection(&crate::world::text(&connection["name"])).await;
            }
            own.len() >= 2
        })
        .await;
        gateway.wait_ready(503).await;
        assert_not_taken(&gateway.post(json(BODY)).await, "broker_unreachable");
        let names_it = |line: &str| line.contains(r#""event":"not_publishing""#);
        let line = gateway.process.wait_for_line(names_it, SOON).await;
        assert!(line.contains("password") && !line.contains(":p@"), "{line}");
        let url = world.ctx.vhost().amqp_url_as(&user.name, "new");
        std::fs::write(&file, url).expect("written");
        gateway.wait_ready(200).await;
        assert_eq!(gateway.post(json(BODY)).await.status, 202);
        user.delete().await;
    });
}

#[test]
fn a_full_queue_beside_the_one_for_requests_is_answered_503_although_the_worker_has_the_request() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let amqp = &front.world.amqp;
        amqp.declare_queue(LEDGER, FieldTable::default()).await;
        amqp.bind(LEDGER, EXCHANGE, REQUEST).await;
        assert_eq!(front.unlock(BODY).await.status, 202);
        front.world.outcome().await;
        let policy = serde_json::json!({"max-length": 1, "overflow": "reject-publish"});
        front.world.ctx.vhost().management().set_policy("full", &format!("^{LEDGER}$"), policy).await;
        let mut sent = 1;
        let refused = kit::eventually("the queue beside is full", SOON, async || {
            sent += 1;
            let answer = front.unlock(BODY).await;
            if answer.status == 202 { Err("taken") } else { Ok(answer) }
        })
        .await;
        // RabbitMQ does not say which queue refused (decision 226).
        assert_not_taken(&refused, "queue_full");
        front.world.outcomes(sent).await;
    });
}
