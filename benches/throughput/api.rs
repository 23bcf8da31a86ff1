//! A fake Trackfinity that costs as little as possible: it finds the end of each request and writes a fixed response.
//! One thread.

use std::cell::Cell;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kit::{Certificate, Process, Program};
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::arguments::Behaviour;

const TRUE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\ntrue";
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const REQUEST: &[u8] =
    b"PATCH /api/customer/unlock HTTP/1.1\r\nhost: localhost\r\napi-key: key\r\napi-username: user\r\n\
    content-type: application/x-www-form-urlencoded\r\ncontent-length: 15\r\n\r\ncustomer_id=191";

/// Serves until it is killed; prints its address on its first line. With TLS if there is a file for the authority of
/// its certificate.
pub fn serve(behaviour: Behaviour, authority: Option<&Path>) -> ExitCode {
    let tls = authority.map(|file| {
        let certificate = Certificate::issued();
        std::fs::write(file, certificate.authority_pem()).expect("written");
        Rc::new(certificate.acceptor())
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        let calls = Rc::new(Cell::new(0));
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            let (calls, tls) = (Rc::clone(&calls), tls.clone());
            tokio::task::spawn_local(async move {
                match tls {
                    None => answer_all(stream, behaviour, calls).await,
                    Some(tls) => answer_all(tls.accept(stream).await.expect("TLS"), behaviour, calls).await,
                }
            });
        }
    });
    ExitCode::SUCCESS
}

async fn answer_all(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    behaviour: Behaviour,
    calls: Rc<Cell<u64>>,
) {
    let mut held = Vec::with_capacity(4096);
    loop {
        while let Some(length) = request_length(&held) {
            held.drain(..length);
            calls.set(calls.get() + 1);
            if !behaviour.latency.is_zero() {
                tokio::time::sleep(behaviour.latency.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
            }
            let fails = behaviour.fail_one_in > 0 && calls.get().is_multiple_of(behaviour.fail_one_in);
            if stream.write_all(if fails { BUSY } else { TRUE }).await.is_err()
                || stream.flush().await.is_err()
            {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut held).await, Ok(1..)) {
            return;
        }
    }
}

/// The length of the first request, if it is complete.
fn request_length(held: &[u8]) -> Option<usize> {
    let head = held.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&held[..head]).ok()?;
    let body = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = head + body.unwrap_or(0);
    (held.len() >= whole).then_some(whole)
}

/// The fake Trackfinity in its own process.
pub struct Api {
    process: Process,
    pub url: String,
    /// Of its certificate, if it has one.
    authority: Option<NamedTempFile>,
}

impl Api {
    /// Starts one with this mean latency, as four callers measure it.
    pub async fn start(behaviour: Behaviour) -> Self {
        let api = Self::launch(behaviour, None).await;
        if behaviour.latency.is_zero() {
            return api;
        }
        // Waking up also takes time, which differs between machines.
        let late = api.latency().await.saturating_sub(behaviour.latency);
        Self::launch(Behaviour { latency: behaviour.latency.saturating_sub(late), ..behaviour }, None).await
    }

    /// Starts one that answers at once, over TLS.
    pub async fn start_tls() -> Self {
        let authority = NamedTempFile::new().expect("a file");
        Self::launch(Behaviour::default(), Some(authority)).await
    }

    async fn launch(behaviour: Behaviour, authority: Option<NamedTempFile>) -> Self {
        let own = std::env::current_exe().expect("a path");
        let latency = behaviour.latency.as_micros().to_string();
        let file = authority.as_ref().map(|file| file.path().display().to_string());
        let words = [latency, behaviour.fail_one_in.to_string(), file.unwrap_or_default()];
        let process = Program::new(own).arg("role-api").args(words).start();
        let address = process.wait_for_line(|_| true, Duration::from_secs(10)).await;
        let scheme = if authority.is_some() { "https" } else { "http" };
        Self { process, url: format!("{scheme}://{address}"), authority }
    }

    /// The file with the authority of its certificate, if it has one.
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_ref().map(NamedTempFile::path)
    }

    pub fn cpu_time(&self) -> Duration {
        self.process.cpu_time()
    }

    /// Calls per second that it answers on an idle machine: 64 connections, one call at a time on each.
    pub async fn capacity(&self) -> f64 {
        const LASTING: Duration = Duration::from_secs(1);
        let begun = Instant::now();
        let callers = (0..64).map(|_| {
            let address = self.address().to_owned();
            tokio::spawn(async move {
                let mut caller = Caller::connect(&address).await;
                let mut calls = 0u32;
                while begun.elapsed() < LASTING {
                    caller.call().await;
                    calls += 1;
                }
                calls
            })
        });
        let mut calls = 0;
        for caller in callers.collect::<Vec<_>>() {
            calls += caller.await.expect("no panic");
        }
        f64::from(calls) / begun.elapsed().as_secs_f64()
    }

    /// The mean time that it takes to answer.
    pub async fn latency(&self) -> Duration {
        const CALLS: u32 = 200;
        let callers = (0..4).map(|_| {
            let address = self.address().to_owned();
            tokio::spawn(async move {
                let mut caller = Caller::connect(&address).await;
                let begun = Instant::now();
                for _call in 0..CALLS {
                    caller.call().await;
                }
                begun.elapsed() / CALLS
            })
        });
        let mut sum = Duration::ZERO;
        for caller in callers.collect::<Vec<_>>() {
            sum += caller.await.expect("no panic");
        }
        sum / 4
    }

    fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }
}

struct Caller(TcpStream);

impl Caller {
    async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).ok();
        Self(stream)
    }

    async fn call(&mut self) {
        self.0.write_all(REQUEST).await.expect("written");
        self.0.read_exact(&mut [0; TRUE.len()]).await.expect("answered");
    }
}
