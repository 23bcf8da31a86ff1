//! A TCP proxy that can cut its connections.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// A TCP proxy on a loopback port to one target, with every fault that a network can have.
pub struct TcpCutter {
    address: SocketAddr,
    line: Arc<Line>,
    acceptor: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

struct Line {
    target: String,
    /// Grows with every cut; a connection from before it is reset.
    cuts: watch::Sender<u64>,
    /// Open connections, by the number of cuts when they were accepted.
    open: watch::Sender<BTreeMap<u64, usize>>,
    accepted: AtomicU64,
    /// Whether bytes are dropped, towards the target and from it.
    swallowing: [AtomicBool; 2],
    delay_micros: AtomicU64,
    /// Towards the target; 0 is no limit.
    bytes_per_second: AtomicU64,
    sever_after: Mutex<Option<usize>>,
}

impl TcpCutter {
    /// `target` is `host:port`.
    pub async fn start(target: impl Into<String>) -> Self {
        let listener = testbed::listen();
        let address = listener.local_addr().expect("a listener has an address");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let line = Arc::new(Line {
            target: target.into(),
            cuts: watch::Sender::new(0),
            open: watch::Sender::default(),
            accepted: AtomicU64::new(0),
            swallowing: [AtomicBool::new(false), AtomicBool::new(false)],
            delay_micros: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            sever_after: Mutex::new(None),
        });
        let listener = TcpListener::from_std(listener).expect("a runtime with IO");
        let acceptor = tokio::spawn(accept(listener, line.clone()));
        Self { address, line, acceptor: Some(acceptor).into() }
    }

    /// Where to connect instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections and refuses new ones. Both have happened when it returns.
    pub async fn cut(&self) {
        if let Some(acceptor) = self.acceptor.lock().await.take() {
            acceptor.abort();
            acceptor.await.ok();
        }
        self.reset_all().await;
    }

    /// Ends [`TcpCutter::cut`], [`TcpCutter::half_open`] and [`TcpCutter::swallow`]. Connections that lost bytes
    /// meanwhile are reset.
    pub async fn restore(&self) {
        let swallowed = [&self.line.swallowing[0], &self.line.swallowing[1]]
            .map(|swallowing| swallowing.swap(false, Ordering::SeqCst));
        if swallowed != [false; 2] {
            self.reset_all().await;
        }
        let mut acceptor = self.acceptor.lock().await;
        if acceptor.is_none() {
            let listener = TcpListener::bind(self.address).await.expect("its own port is free");
            *acceptor = Some(tokio::spawn(accept(listener, self.line.clone())));
        }
    }

    /// Resets all connections, and accepts new ones. Those that were open are closed when it returns.
    pub async fn reset_all(&self) {
        let mut now = 0;
        self.line.cuts.send_modify(|cuts| {
            *cuts += 1;
            now = *cuts;
        });
        let are_closed = |open: &BTreeMap<u64, usize>| open.range(..now).next().is_none();
        self.line.open.subscribe().wait_for(are_closed).await.expect("the line lives");
    }

    /// Delays every chunk by this time, in both directions; zero switches it off.
    pub fn delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).expect("a delay below 500,000 years");
        self.line.delay_micros.store(micros, Ordering::SeqCst);
    }

    /// Limits each connection to this many bytes per second towards the target; zero is no limit.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.line.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
    }

    /// From now on drops all bytes in both directions, on old and new connections, and closes nothing: a peer that
    /// vanished without closing.
    pub fn half_open(&self) {
        self.swallow(true, true);
    }

    /// The same in the directions that are named: a network that loses one direction alone. A connection that is
    /// opened meanwhile reaches the target only if both directions work.
    pub fn swallow(&self, to_target: bool, from_target: bool) {
        self.line.swallowing[0].store(to_target, Ordering::SeqCst);
        self.line.swallowing[1].store(from_target, Ordering::SeqCst);
    }

    /// Lets this many more bytes through from the target, on all connections together, then resets the connection
    /// that carries the last of them. Once.
    pub fn sever_after(&self, bytes: usize) {
        *self.line.sever_after.lock().expect("no panic holds it") = Some(bytes);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.line.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.line.open.borrow().values().sum()
    }
}

impl Drop for TcpCutter {
    fn drop(&mut self) {
        if let Some(acceptor) = self.acceptor.get_mut().take() {
            acceptor.abort();
        }
        self.line.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, line: Arc<Line>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        // No await between here and the spawn: even if aborted, a connection is either counted or not yet accepted.
        line.accepted.fetch_add(1, Ordering::SeqCst);
        let mut cuts = line.cuts.subscribe();
        let counted = Counted::new(line.clone(), *cuts.borrow_and_update());
        tokio::spawn(carry(client, counted, cuts));
    }
}

async fn carry(client: TcpStream, counted: Counted, mut cuts: watch::Receiver<u64>) {
    let line = &counted.line;
    // A parameter is dropped last: the sockets are closed when the count goes down.
    let mut client = client;
    let target =
        async { if line.swallows_any() { None } else { TcpStream::connect(&line.target).await.ok() } };
    let target = tokio::select! {
        target = target => target,
        _ = cuts.changed() => None,
    };
    let Some(mut target) = target else {
        if line.swallows_any() {
            let swallow = async { while client.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} };
            tokio::select! {
                () = async { swallow.await; std::future::pending().await } => {}
                _ = cuts.changed() => {}
            }
        }
        return reset(client);
    };
    client.set_nodelay(true).ok();
    target.set_nodelay(true).ok();
    let finished = {
        let (client_reader, client_writer) = client.split();
        let (target_reader, target_writer) = target.split();
        let there = pump(line, client_reader, target_writer, false);
        let back = pump(line, target_reader, client_writer, true);
        tokio::select! {
            _ = cuts.changed() => false,
            done = async { tokio::try_join!(there, back) } => done.is_ok(),
        }
    };
    if !finished {
        reset(client);
        reset(target);
    }
}

/// Copies one direction. Passes the end of the stream on; an error ends both directions.
async fn pump(
    line: &Line,
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    from_target: bool,
) -> io::Result<()> {
    // Reading continues while chunks are delayed: a delay must not lower the throughput.
    let (chunks, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = match from.read(&mut buffer).await {
                Err(error) => {
                    line.swallowed(from_target).await;
                    return Err(error);
                }
                Ok(read) => read,
            };
            if read == 0 {
                drop(chunks);
                return Ok(());
            }
            let limit = line.bytes_per_second.load(Ordering::SeqCst);
            if limit > 0 && !from_target {
                // Before the next read, so that the sender has to wait.
                tokio::time::sleep(
                    Duration::from_secs(1) * u32::try_from(read).expect("a chunk")
                        / u32::try_from(limit).expect("a low limit"),
                )
                .await;
            }
            let due = Instant::now() + Duration::from_micros(line.delay_micros.load(Ordering::SeqCst));
            chunks.send((due, buffer[..read].to_vec())).await.map_err(io::Error::other)?;
        }
    };
    let write = async {
        while let Some((due, chunk)) = waiting.recv().await {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            if line.swallows(from_target) {
                continue;
            }
            let allowed = if from_target { line.allow(chunk.len()) } else { None };
            match allowed {
                Some(bytes) => {
                    to.write_all(&chunk[..bytes]).await?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                None => {
                    if let Err(error) = to.write_all(&chunk).await {
                        line.swallowed(from_target).await;
                        return Err(error);
                    }
                }
            }
        }
        line.swallowed(from_target).await;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

impl Line {
    /// How many of the next `bytes` bytes may still pass, if these are the last ones.
    fn allow(&self, bytes: usize) -> Option<usize> {
        let mut left = self.sever_after.lock().expect("no panic holds it");
        match *left {
            Some(rest) if rest <= bytes => left.take(),
            Some(rest) => {
                *left = Some(rest - bytes);
                None
            }
            None => None,
        }
    }

    fn swallows(&self, from_target: bool) -> bool {
        self.swallowing[usize::from(from_target)].load(Ordering::SeqCst)
    }

    fn swallows_any(&self) -> bool {
        self.swallows(false) || self.swallows(true)
    }

    /// Where bytes are dropped, no end learns that the other one closed: then this never returns.
    async fn swallowed(&self, from_target: bool) {
        if self.swallows(from_target) {
            std::future::pending::<()>().await;
        }
    }
}

/// An open connection, and the number of cuts when it was accepted.
struct Counted {
    line: Arc<Line>,
    cuts: u64,
}

impl Counted {
    fn new(line: Arc<Line>, cuts: u64) -> Self {
        line.open.send_modify(|open| *open.entry(cuts).or_default() += 1);
        Self { line, cuts }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.line.open.send_modify(|open| {
            let left = open.get(&self.cuts).map_or(0, |count| count - 1);
            match left {
                0 => open.remove(&self.cuts),
                left => open.insert(self.cuts, left),
            };
        });
    }
}

fn reset(stream: TcpStream) {
    // With no time to linger the kernel sends RST instead of FIN.
    stream.set_zero_linger().ok();
}
