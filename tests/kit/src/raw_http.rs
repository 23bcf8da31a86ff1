//! Responses that no HTTP server would send.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::trackfinity::{from_std, on_own_thread};

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A TCP server that hands every connection to a closure. Dropping it closes everything.
pub struct RawHttp {
    address: SocketAddr,
    accepted: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl RawHttp {
    /// The connection is closed when the closure's future ends.
    pub fn start<F>(answer: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::serve(Box::new(move |stream| Box::pin(answer(stream))))
    }

    fn serve(answer: Box<dyn Fn(TcpStream) -> Task + Send + Sync>) -> Self {
        let listener = testbed::listen();
        let address = listener.local_addr().expect("a listener has an address");
        let accepted = Arc::new(AtomicU64::new(0));
        let count = accepted.clone();
        let (stop, stopped) = oneshot::channel();
        let thread = on_own_thread("raw-http", async move {
            let listener = from_std(listener);
            let accept = async {
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    drop(tokio::spawn(answer(stream)));
                }
            };
            tokio::select! {
                _ = stopped => {}
                () = accept => {}
            }
        });
        Self { address, accepted, stop: Some(stop), thread: Some(thread) }
    }

    /// Reads the request and never answers.
    pub fn never_answers() -> Self {
        Self::start(|mut stream| async move {
            read_head(&mut stream).await;
            std::future::pending().await
        })
    }

    /// Reads the request and resets the connection without an answer.
    pub fn resets() -> Self {
        Self::start(|mut stream| async move {
            read_head(&mut stream).await;
            reset(stream);
        })
    }

    /// Promises 100 bytes, gives 2 of them, and resets the connection.
    pub fn resets_in_mid_body() -> Self {
        Self::start(|mut stream| async move {
            read_head(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\ntr";
            stream.write_all(head).await.ok();
            stream.flush().await.ok();
            reset(stream);
        })
    }

    /// Sends a correct response, one byte per `gap`.
    pub fn byte_by_byte(gap: Duration) -> Self {
        Self::start(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.set_nodelay(true).ok();
            for byte in b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\ntrue"
            {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(gap).await;
            }
        })
    }

    /// Answers with something that is not HTTP.
    pub fn garbage() -> Self {
        Self::start(|mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"\x15\x03\x01\x00\x02\x02\x16 not HTTP at all\r\n\r\n").await.ok();
        })
    }

    /// Answers 200 with a body that does not end.
    pub fn endless_body() -> Self {
        Self::start(|mut stream| async move {
            read_head(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
            if stream.write_all(head).await.is_ok() {
                while stream.write_all(&[b' '; 16 * 1024]).await.is_ok() {}
            }
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For example `http://127.0.0.1:12345`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Reads up to the end of a request's head and whatever of the body came with it.
    pub async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
        read_head(stream).await
    }
}

impl Drop for RawHttp {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    let mut buffer = [0; 8192];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => head.extend_from_slice(&buffer[..read]),
        }
    }
    head
}

fn reset(stream: TcpStream) {
    // With no time to linger the kernel sends RST instead of FIN.
    stream.set_zero_linger().ok();
}
