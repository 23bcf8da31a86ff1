//! A client that keeps its connection, for what wrk cannot do.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::figures::percentile;

/// How many requests are sent each second.
const RATE: u32 = 200;
const CALLERS: u32 = 16;
const LASTING: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(2);

/// One connection.
pub struct Client {
    stream: TcpStream,
    request: String,
    received: Vec<u8>,
}

impl Client {
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("an option of every socket");
        let body = r#"{"customer_id":"191"}"#;
        let request = format!(
            "POST /v1/unlocks HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self { stream, request, received: Vec::with_capacity(1024) }
    }

    /// # Panics
    /// If the request is not accepted.
    pub async fn unlock(&mut self) {
        self.stream.write_all(self.request.as_bytes()).await.expect("sent");
        while !is_whole(&self.received) {
            let read = self.stream.read_buf(&mut self.received).await.expect("received");
            assert!(read > 0, "closed after: {}", String::from_utf8_lossy(&self.received));
        }
        let answer = String::from_utf8_lossy(&self.received);
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        self.received.clear();
    }
}

fn is_whole(received: &[u8]) -> bool {
    let Some(head) = received.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&received[..head]);
    let body = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    received.len() >= head + 4 + body.expect("a length")
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

/// 200 requests per second for ten seconds, after a warm-up of two seconds. Each is measured from when it was due, so
/// that a slow answer cannot hide the ones that wait behind it.
pub async fn latency(address: &str) -> Latency {
    let interval = Duration::from_secs(1) / RATE;
    let begun = Instant::now() + Duration::from_millis(100);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let address = address.to_owned();
            tokio::spawn(async move {
                let mut client = Client::connect(&address).await;
                let mut took = Vec::new();
                for turn in 0.. {
                    let due = begun + interval * (turn * CALLERS + caller);
                    if due >= begun + WARM_UP + LASTING {
                        break;
                    }
                    tokio::time::sleep_until(due).await;
                    client.unlock().await;
                    if due >= begun + WARM_UP {
                        took.push(due.elapsed().as_secs_f64() * 1000.0);
                    }
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await.expect("no panic"));
    }
    took.sort_by(f64::total_cmp);
    Latency { p50: percentile(&took, 0.5), p99: percentile(&took, 0.99) }
}
