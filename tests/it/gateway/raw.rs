//! Bad HTTP, byte by byte: each is answered with an error or a closed connection, and harms no other.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::world::Front;

/// The gateway waits 20 s for a body.
const LIMIT: Duration = Duration::from_secs(30);
const BODY: &str = r#"{"customer_id":191}"#;

/// How a client ends what it sends.
#[derive(Clone, Copy)]
enum End {
    /// It keeps the connection open, and waits.
    Open,
    /// It sends no more, and still reads.
    HalfClosed,
}

/// Sends these bytes. The statuses of all answers, and the last body.
async fn exchange(address: &str, sent: &[u8], end: End) -> (Vec<u16>, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The gateway may have closed before all is written.
    stream.write_all(sent).await.ok();
    if matches!(end, End::HalfClosed) {
        stream.shutdown().await.ok();
    }
    let mut answer = Vec::new();
    // A reset connection is a closed one.
    timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an end in time").ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let statuses = answer
        .split("HTTP/1.")
        .skip(1)
        .map(|answer| answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"));
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned();
    (statuses.collect(), body)
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /v1/unlocks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\r\n{body}")
        .into_bytes()
}

/// What is sent, how it ends, and the statuses of the answers to it. None: the connection is closed.
fn bad_requests() -> Vec<(&'static str, Vec<u8>, End, &'static [u16])> {
    use End::{HalfClosed, Open};
    let get = |headers: &str| {
        format!("GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").into_bytes()
    };
    let length = BODY.len();
    let next = String::from_utf8(get("connection: close\r\n")).expect("text");
    let closing = |headers: String| format!("connection: close\r\n{headers}");
    vec![
        ("no HTTP", b"BROKEN\r\n\r\n".to_vec(), Open, &[400]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), Open, &[400]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Open, &[]),
        ("an unknown version", b"GET / HTTP/3.7\r\n\r\n".to_vec(), Open, &[400]),
        ("a path with a blank", b"GET /a b HTTP/1.1\r\n\r\n".to_vec(), Open, &[400]),
        ("a header with NUL", get("x: a\0b\r\n"), Open, &[400]),
        ("a header without a colon", get("nothing\r\n"), Open, &[400]),
        ("a blank before the colon", get("x : a\r\n"), Open, &[400]),
        ("a folded header", get("x: a\r\n b\r\n"), Open, &[400]),
        ("a head over 16 KiB", get(&format!("x: {}\r\n", "a".repeat(17 * 1024))), Open, &[431]),
        ("more than 100 headers", get(&"x: a\r\n".repeat(120)), Open, &[431]),
        (
            "a path over 16 KiB",
            format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(17 * 1024)).into(),
            Open,
            &[431],
        ),
        ("half a head", b"GET /openapi.json HTTP/1.1\r\nho".to_vec(), Open, &[]),
        ("half a head and an end", b"GET /openapi.json HTTP/1.1\r\nho".to_vec(), HalfClosed, &[]),
        ("nothing", Vec::new(), Open, &[]),
        ("nothing and an end", Vec::new(), HalfClosed, &[]),
        ("a chunk of no size", post("transfer-encoding: chunked\r\n", "zz\r\nx\r\n0\r\n\r\n"), Open, &[400]),
        ("a chunk of too many digits", post("transfer-encoding: chunked\r\n", &"f".repeat(40)), Open, &[400]),
        (
            "a chunk that never comes",
            post("transfer-encoding: chunked\r\n", "fffffffff\r\nx"),
            HalfClosed,
            &[400],
        ),
        (
            "chunks over 64 KiB",
            post("transfer-encoding: chunked\r\n", &format!("11000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x11000))),
            Open,
            &[413],
        ),
        (
            "chunks that are not the last coding",
            post("transfer-encoding: chunked, gzip\r\n", "0\r\n\r\n"),
            Open,
            &[400],
        ),
        ("a body that ends early", post("content-length: 100\r\n", BODY), HalfClosed, &[400]),
        ("a body that stops", post("content-length: 100\r\n", BODY), Open, &[408]),
        ("a body over 64 KiB", post("content-length: 65537\r\n", ""), Open, &[413]),
        (
            "a body over 64 KiB that asks first",
            post("content-length: 65537\r\nexpect: 100-continue\r\n", ""),
            Open,
            &[413],
        ),
        (
            "a body longer than its length",
            post(&format!("content-length: {}\r\n", length - 1), BODY),
            Open,
            &[400, 400],
        ),
        (
            "two lengths",
            post(&format!("content-length: {length}\r\ncontent-length: 1\r\n"), BODY),
            Open,
            &[400],
        ),
        ("a length with a sign", post(&format!("content-length: +{length}\r\n"), BODY), Open, &[400]),
        ("a negative length", post("content-length: -1\r\n", BODY), Open, &[400]),
        (
            "a length too large for any number",
            post(&format!("content-length: {}\r\n", "9".repeat(40)), BODY),
            Open,
            &[400],
        ),
        (
            "a length and chunks: the chunks count, and no request hides behind them",
            post(
                &closing(format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", 5 + next.len())),
                &format!("0\r\n\r\n{next}"),
            ),
            Open,
            &[400],
        ),
        (
            "chunks in HTTP/1.0",
            String::from_utf8(post("transfer-encoding: chunked\r\n", "0\r\n\r\n"))
                .expect("text")
                .replace("HTTP/1.1", "HTTP/1.0")
                .into(),
            Open,
            &[400],
        ),
        (
            "CONNECT",
            b"CONNECT a:443 HTTP/1.1\r\nhost: localhost:443\r\nconnection: close\r\n\r\n".to_vec(),
            Open,
            &[404],
        ),
    ]
}

#[test]
fn bad_http_is_answered_or_closed_and_the_next_request_is_taken() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let gateway = &front.gateway;
        let rows = join_all(bad_requests().into_iter().map(async |(what, sent, end, expected)| {
            let begun = Instant::now();
            let (statuses, body) = exchange(&gateway.address, &sent, end).await;
            println!("{what}: {statuses:?} after {} ms {body:.100}", begun.elapsed().as_millis());
            let next = front.unlock(BODY).await;
            (what, statuses, expected, next.status)
        }))
        .await;
        let wrong: Vec<_> = rows
            .iter()
            .filter(|(_, statuses, expected, next)| statuses != expected || *next != 202)
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(gateway.process.try_exit().is_none());
        kit::eventually("no connection is left", crate::world::SOON, async || {
            gateway.metric("unlocker_gateway_connections ").await == Some(0.0)
        })
        .await;
    });
}

#[test]
fn requests_that_come_at_once_are_answered_in_their_order() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let length = format!("content-length: {}\r\n", BODY.len());
        let sent = [
            post(&format!("idempotency-key: first\r\n{length}"), BODY),
            post("content-length: 2\r\n", "{}"),
            post(&format!("idempotency-key: third\r\nprefer: wait=20\r\n{length}"), BODY),
            post(&format!("connection: close\r\nexpect: 100-continue\r\n{length}"), BODY),
        ];
        let (statuses, _) = exchange(&front.gateway.address, &sent.concat(), End::Open).await;
        assert_eq!(
            statuses.iter().filter(|status| **status != 100).collect::<Vec<_>>(),
            [&202, &422, &200, &202]
        );
    });
}

#[test]
fn a_client_that_sends_no_more_may_still_read_its_answer_or_none() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let sent = post(&format!("content-length: {}\r\n", BODY.len()), BODY);
        let (statuses, _) = exchange(&front.gateway.address, &sent, End::HalfClosed).await;
        assert!(statuses.is_empty() || statuses == [202], "{statuses:?}");
        assert_eq!(front.unlock(BODY).await.status, 202);
    });
}
