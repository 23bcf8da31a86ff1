//! The fake Trackfinity servers.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use kit::{Answer, Certificate, RawHttp, Trackfinity};
use reqwest::Client;

fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_millis(500)).build().unwrap()
}

#[tokio::test]
async fn calls_are_answered_by_the_script_and_recorded() {
    let trackfinity = Trackfinity::start(|call| match call.n {
        1 => Answer::status(503).header("retry-after", "7").body("busy"),
        _ => Answer::unlocked(),
    });
    let url = format!("{}/api/customer/unlock?x=1", trackfinity.url());
    let send = || client().patch(&url).header("api-key", "k").body("customer_id=19%201&orderid=2").send();
    let busy = send().await.unwrap();
    assert_eq!((busy.status().as_u16(), busy.headers()["retry-after"].as_bytes()), (503, b"7".as_slice()));
    assert_eq!(send().await.unwrap().text().await.unwrap(), "true");

    let calls = trackfinity.calls();
    assert_eq!(
        (calls.len(), calls[0].method.as_str(), calls[0].path.as_str()),
        (2, "PATCH", "/api/customer/unlock?x=1")
    );
    assert_eq!(calls[0].header("api-key"), Some("k"));
    assert_eq!(calls[0].form(), [("customer_id".into(), "19 1".into()), ("orderid".into(), "2".into())]);
    assert_eq!(calls[0].field("orderid").as_deref(), Some("2"));

    trackfinity.answer_with(|_| Answer::json(200, "false").after(Duration::from_millis(100)));
    trackfinity.record(false);
    let client = client();
    let began = Instant::now();
    let send = || client.patch(&url).send();
    let (a, b, c) = tokio::join!(send(), send(), send());
    for answer in [a, b, c] {
        assert_eq!(answer.unwrap().text().await.unwrap(), "false");
    }
    assert!(began.elapsed() >= Duration::from_millis(100));
    trackfinity.wait_count(5, Duration::from_secs(1)).await;
    assert_eq!((trackfinity.max_in_flight(), trackfinity.in_flight(), trackfinity.calls().len()), (3, 0, 2));
}

#[tokio::test]
async fn a_dropped_stand_in_refuses_connections() {
    let trackfinity = Trackfinity::start(|_| Answer::unlocked());
    let url = trackfinity.url();
    drop(trackfinity);
    assert!(client().get(url).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn broken_answers_break_the_call() {
    for (what, server) in [
        ("never", RawHttp::never_answers()),
        ("reset", RawHttp::resets()),
        ("mid-body", RawHttp::resets_in_mid_body()),
        ("slow", RawHttp::byte_by_byte(Duration::from_millis(20))),
        ("garbage", RawHttp::garbage()),
        ("endless", RawHttp::endless_body()),
    ] {
        let answer = async { client().patch(server.url()).body("a=1").send().await?.text().await };
        assert!(answer.await.is_err(), "{what}");
        assert_eq!(server.accepted(), 1, "{what}");
    }
    let slow = RawHttp::byte_by_byte(Duration::from_millis(1));
    assert_eq!(client().patch(slow.url()).send().await.unwrap().text().await.unwrap(), "true");
}

#[tokio::test]
async fn only_a_valid_certificate_of_a_trusted_authority_is_accepted() {
    let cases =
        [(Certificate::issued(), true), (Certificate::expired(), false), (Certificate::self_signed(), false)];
    for (certificate, good) in cases {
        let server = Trackfinity::start_tls(&certificate, |_| Answer::unlocked());
        let send = |client: Client| client.patch(server.url()).send();
        assert!(send(client()).await.is_err(), "trusted without its authority");
        let authority = reqwest::Certificate::from_pem(certificate.authority_pem().as_bytes()).unwrap();
        if good {
            let trusting = Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
            assert_eq!(send(trusting).await.unwrap().text().await.unwrap(), "true");
        }
    }
}

/// One client on the same machine; printed, not asserted: `cargo test -p kit --release --test http -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn calls_per_second() {
    let trackfinity = Trackfinity::start(|_| Answer::unlocked());
    trackfinity.record(false);
    let client = Client::builder().no_proxy().build().unwrap();
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (client, url) = (client.clone(), trackfinity.url());
        tasks.spawn(async move {
            for _ in 0..500 {
                client.patch(&url).body("customer_id=1").send().await.unwrap().bytes().await.unwrap();
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{:.0} calls a second; the stand-in took {:.1} µs of CPU each",
        32_000.0 / seconds,
        server_cpu_ms() / 32.0
    );
}

/// CPU time in ms of the thread that serves.
fn server_cpu_ms() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let stat = stats.filter(|stat| stat.contains("(trackfinity)")).last().unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() * 10.0
}
