//! Many outcomes and many dead letters.

use std::time::{Duration, Instant};

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
