//! Many outcomes and many dead letters.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use lapin::{
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable as Arguments,
};

use super::*;

/// How many outcomes and dead letters there are; `UNLOCKER_TEST_SIZE` multiplies it.
const OUTCOMES: usize = 10_000;
const DEAD_LETTERS: usize = 2_500;
/// How long a first answer may take, and a later one.
const FIRST: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_secs(1);
/// How much memory the console may have, in bytes.
const MAX_MEMORY: u64 = 150 * 1024 * 1024;

/// An outcome as a worker publishes it.
fn outcome(n: usize) -> (Properties, Vec<u8>) {
    let at = trackfinity_unlocker::message::Timestamp::now().minus(Duration::from_secs(n as u64 * 2));
    let (status, reason) =
        if n.is_multiple_of(10) { ("refused", "\"http_404\"") } else { ("unlocked", "null") };
    let body = format!(
        r#"{{"status":"{status}","request_id":"request-{n}","request":{{"customer_id":"{}"}},"attempts":1,
        "http_status":200,"reason":{reason},"detail":null,"replays":0,"requested_by":"shop",
        "first_received_at":"{at}","finished_at":"{at}"}}"#,
        n % 5_000
    );
    (Properties::default().with_content_type("application/json".into()), body.into_bytes())
}

/// How long an answer took.
async fn timed(page: &Page, browser: &mut Browser, path: &str, words: &str) -> Duration {
    let began = Instant::now();
    let answer = browser.get(path).await;
    let took = began.elapsed();
    assert!(answer.status == 200 && answer.body.contains(words), "{path}: no {words}: {}", answer.body);
    let memory = page.console.process.rss() / (1024 * 1024);
    println!("{path}: {} ms, {memory} MiB", took.as_millis());
    took
}

#[test]
fn overview_and_search_answer_at_once_beside_many_outcomes_and_dead_letters() {
    let times = std::env::var("UNLOCKER_TEST_SIZE").map_or(1, |times| times.parse().expect("a number"));
    kit::run_within(Duration::from_secs(60 * times.clamp(2, 10) as u64), async |ctx| {
        let mut page = Page::start_with_history(ctx, &[]).await;
        let (outcomes, dead_letters) = (OUTCOMES * times, DEAD_LETTERS * times);
        page.world.amqp.publish_all(RESULTS, "unlock.unlocked", (0..outcomes).map(outcome)).await;
        page.publish_dead_letters(dead_letters).await;
        let tokens = [
            ("CONSOLE__VIEWER_TOKEN", VIEWER),
            ("CONSOLE__OPERATOR_TOKEN", OPERATOR),
            ("HISTORY__ENABLED", "true"),
        ];
        page.console.process.kill9();
        let console = Console::start(&page.world.ctx, page.world.ctx.amqp_url(), &tokens).await;
        page.address.clone_from(&console.address);
        page.console = console;
        let began = Instant::now();
        // The login leads to the overview.
        let mut anna = page.logged_in(VIEWER).await;
        println!("login and first overview: {} ms", began.elapsed().as_millis());
        assert!(began.elapsed() < FIRST);
        let dead = format!("<td data-label=\"Dead letters\" class=\"number whole\">{dead_letters}</td>");
        assert!(timed(&page, &mut anna, "/?window=week", &dead).await < FIRST);
        let is_read = async || {
            let body = page.api("GET", "/api/v1/outcomes", VIEWER, None).await.json();
            if body["up_to_date"] == true { Ok(()) } else { Err(body["note"].to_string()) }
        };
        kit::eventually("the history is read", Duration::from_secs(120), is_read).await;
        println!("{outcomes} outcomes were read after {} ms", began.elapsed().as_millis());
        assert!(timed(&page, &mut anna, "/?window=week", &dead).await < LATER);
        let words = format!("Request <code>request-{}</code>", 4_711);
        for path in ["/search?q=4711", "/search?q=request-4711"] {
            assert!(timed(&page, &mut anna, path, &words).await < FIRST);
            assert!(timed(&page, &mut anna, path, &words).await < LATER);
        }
        assert!(timed(&page, &mut anna, "/dead-letters", "1 to 50 of").await < FIRST);
        assert!(page.console.process.peak_rss() < MAX_MEMORY);
    });
}

/// Requests per second, while a console counts and while none does.
const RATE: u64 = 50;

/// Measures how long requests take from their publish to their outcome. One in ten becomes a dead letter first.
struct Stopwatch<'a> {
    world: &'a World,
    ended: Arc<Mutex<HashMap<String, Instant>>>,
    rounds: usize,
}

impl<'a> Stopwatch<'a> {
    async fn start(world: &'a World) -> Self {
        let ended = Arc::<Mutex<HashMap<_, _>>>::default();
        let channel = world.amqp.channel().await;
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), own, Arguments::default()).await.expect("a queue");
        let (name, binding) = (queue.name().clone(), QueueBindOptions::default());
        let bound =
            channel.queue_bind(name.clone(), RESULTS.into(), "#".into(), binding, Arguments::default());
        bound.await.expect("bound");
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let consumer = channel.basic_consume(name, "".into(), options, Arguments::default()).await;
        let (mut consumer, all) = (consumer.expect("a consumer"), Arc::clone(&ended));
        world.ctx.spawn(async move {
            // The consumer ends with its channel.
            let _channel = channel;
            while let Some(Ok(outcome)) = consumer.next().await {
                let id = outcome.properties.correlation_id().as_ref().map(ToString::to_string);
                all.lock().expect("a lock").insert(id.unwrap_or_default(), Instant::now());
            }
        });
        Self { world, ended, rounds: 0 }
    }

    /// The times of all requests of some seconds, the shortest first.
    async fn measure(&mut self, length: Duration) -> Vec<Duration> {
        self.rounds += 1;
        let count = length.as_secs() * RATE;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE as u32);
        let mut began = HashMap::new();
        for n in 0..count {
            ticks.tick().await;
            let request = format!("timed-{}-{n}", self.rounds);
            let customer = if n.is_multiple_of(10) { "no" } else { "191" };
            began.insert(request.clone(), Instant::now());
            let properties = id(&request).with_correlation_id(request.as_str().into());
            self.world.publish(properties, format!(r#"{{"customer_id":"{customer}"}}"#)).await;
        }
        let ended = async || {
            let ended = self.ended.lock().expect("a lock");
            began.keys().all(|request| ended.contains_key(request))
        };
        kit::eventually("all outcomes", SOON, ended).await;
        let ended = self.ended.lock().expect("a lock");
        let mut times: Vec<_> =
            began.iter().map(|(request, at)| ended[request].duration_since(*at)).collect();
        times.sort_unstable();
        times
    }
}

/// The half and the 99th percentile of sorted times, in milliseconds.
fn percentiles(times: &[Duration]) -> (f64, f64) {
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    (at(0.5), at(0.99))
}

#[test]
fn nobodys_requests_are_delayed_while_a_console_counts_and_searches() {
    let times = std::env::var("UNLOCKER_TEST_SIZE").map_or(1, |times| times.parse().expect("a number"));
    kit::run_alone_within(Duration::from_secs(90 * times.clamp(2, 10) as u64), async |ctx| {
        let page = Page::start_with_history(ctx, &[]).await;
        let (outcomes, dead_letters) = (OUTCOMES * times, DEAD_LETTERS * times);
        page.world.amqp.publish_all(RESULTS, "unlock.unlocked", (0..outcomes).map(outcome)).await;
        page.publish_dead_letters(dead_letters).await;
        let mut stopwatch = Stopwatch::start(&page.world).await;
        let length = Duration::from_secs(if times > 1 { 20 } else { 4 });
        stopwatch.measure(Duration::from_secs(2)).await;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        let looks = AtomicUsize::new(0);
        // In turns, because the machine may have other work.
        for _ in 0..2 {
            without.extend(stopwatch.measure(length).await);
            let is_over = AtomicBool::new(false);
            // Counts again and again, and searches for what no answer is known of.
            let console = async {
                while !is_over.load(Ordering::Relaxed) {
                    let n = looks.fetch_add(1, Ordering::Relaxed);
                    for path in ["/api/v1/summary".to_owned(), format!("/api/v1/search?q={n}")] {
                        let answer = page.api("GET", &path, VIEWER, None).await;
                        assert_eq!(answer.status, 200, "{}", answer.body);
                    }
                }
            };
            let measured = async {
                let times = stopwatch.measure(length).await;
                is_over.store(true, Ordering::Relaxed);
                times
            };
            with.extend(tokio::join!(measured, console).0);
        }
        without.sort_unstable();
        with.sort_unstable();
        let ((half, most), (half_with, most_with)) = (percentiles(&without), percentiles(&with));
        let looks = looks.into_inner();
        println!(
            "{outcomes} outcomes, {dead_letters} dead letters, {RATE} requests/s: p50 {half:.1} ms, p99 {most:.1} ms; \
             while a console counts and searches ({looks} times): p50 {half_with:.1} ms, p99 {most_with:.1} ms"
        );
        assert!(looks >= 2, "it has counted and searched {looks} times");
        assert!(half_with < half * 3.0 + 20.0 && most_with < most * 3.0 + 250.0, "requests were delayed");
    });
}
