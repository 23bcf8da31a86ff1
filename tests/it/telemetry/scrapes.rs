//! Many scrapes: the queues are not counted for each of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Instant;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::world::{EXCHANGE, REQUEST, requests};

/// A proxy to the broker that counts passive declarations.
async fn counting_line(ctx: &Context) -> (Arc<AtomicUsize>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = ctx.vhost().amqp_url_on_port(listener.local_addr().expect("an address").port());
    let (host, port) = ctx.node().address();
    let (target, declared) = (format!("{host}:{port}"), Arc::new(AtomicUsize::new(0)));
    let (count, accepting) = (declared.clone(), ctx.clone());
    ctx.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let broker = TcpStream::connect(&target).await.expect("the broker");
            let count = count.clone();
            accepting.spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_broker, mut to_broker) = broker.into_split();
                let answers = tokio::io::copy(&mut from_broker, &mut to_client);
                let requests = async {
                    let mut seen = Frames::default();
                    let mut buffer = vec![0; 65_536];
                    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                        count.fetch_add(seen.declares_in(&buffer[..length]), Ordering::SeqCst);
                        if to_broker.write_all(&buffer[..length]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! {
                    _ended = answers => {}
                    () = requests => {}
                }
            });
        }
    });
    (declared, url)
}

/// AMQP frames as a client sends them: type, channel, length, payload, end byte.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    begun: bool,
}

impl Frames {
    /// How many passive `queue.declare` end with these bytes.
    fn declares_in(&mut self, bytes: &[u8]) -> usize {
        self.bytes.extend_from_slice(bytes);
        if !self.begun && self.bytes.len() >= 8 {
            assert_eq!(&self.bytes[..4], b"AMQP");
            self.bytes.drain(..8);
            self.begun = true;
        }
        let mut declares = 0;
        while self.begun && self.bytes.len() >= 7 {
            let length =
                u32::from_be_bytes([self.bytes[3], self.bytes[4], self.bytes[5], self.bytes[6]]) as usize;
            if self.bytes.len() < length + 8 {
                break;
            }
            let frame: Vec<u8> = self.bytes.drain(..length + 8).collect();
            // The method queue.declare (class 50, method 10): a short, the name, then the bits.
            if frame[0] == 1 && frame[7..11] == [0, 50, 0, 10] {
                let name = usize::from(frame[13]);
                declares += usize::from(frame[14 + name] & 1 == 1);
            }
        }
        declares
    }
}

#[test]
fn many_scrapes_look_at_the_queues_once_a_second_and_disturb_nothing() {
    const SCRAPES: usize = 200;
    const REQUESTS: usize = 400;
    /// Requests, dead letters, and eleven retry queues.
    const QUEUES: usize = 13;
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let (declared, url) = counting_line(&ctx).await;
        let env = [listen, ("UNLOCKER__BROKER__URL", url)];
        let world = world(ctx, &env, |_| Answer::unlocked().after(Duration::from_millis(5))).await;
        scrape(&base).await;
        let before = declared.load(Ordering::SeqCst);
        assert!(before >= QUEUES, "{before} declarations were counted");
        let started = Instant::now();
        let scrapes = async {
            let client = http();
            let mut every = tokio::time::interval(Duration::from_secs(1) / SCRAPES as u32);
            for _scrape in 0..SCRAPES {
                every.tick().await;
                let reply = client.get(format!("{base}/metrics")).send().await.expect("an answer");
                let text = reply.text().await.expect("a text");
                assert!(
                    sample(&text, "unlocker_queue_messages", &[("queue", "dead")]) == Some(0.0),
                    "{text}"
                );
            }
        };
        tokio::join!(scrapes, world.amqp.publish_all(EXCHANGE, REQUEST, requests(REQUESTS)));
        let took = started.elapsed();
        let looks = (declared.load(Ordering::SeqCst) - before).div_ceil(QUEUES);
        eprintln!("{SCRAPES} scrapes in {took:?}: {looks} looks at the queues");
        assert!(took < Duration::from_secs(5), "{SCRAPES} scrapes took {took:?}");
        assert!(looks <= took.as_secs() as usize + 1, "{looks} looks in {took:?}");
        world.outcomes.wait_count(REQUESTS, SOON).await;
        world.stop().await;
        let lost = world.worker.stderr().iter().any(|line| line.contains("not consuming"));
        assert!(!lost, "the session went on");
        assert_eq!(world.trackfinity.count(), REQUESTS as u64, "no request was taken again");
    });
}
