//! The proxy that can be cut.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use kit::{TcpCutter, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// A cutter before a server that sends everything back.
async fn echo() -> TcpCutter {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cutter = TcpCutter::start(listener.local_addr().unwrap().to_string()).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await.ok();
            });
        }
    });
    cutter
}

async fn call(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(text).await?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_whole_line_carries_both_ways_and_closes_politely() {
    let cutter = echo().await;
    let mut stream = TcpStream::connect(cutter.address()).await.unwrap();
    let big = vec![7; 1_000_000];
    let (mut reader, mut writer) = stream.split();
    let send = async {
        writer.write_all(&big).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, read) = tokio::join!(send, reader.read_to_end(&mut back));
    assert_eq!((read.unwrap(), back), (1_000_000, big));
    eventually("it is closed", SOON, async || cutter.open() == 0).await;
    assert_eq!(cutter.accepted(), 1);
}

#[tokio::test]
async fn a_cut_line_resets_and_refuses_until_restored() {
    let cutter = echo().await;
    let mut stream = TcpStream::connect(cutter.address()).await.unwrap();
    call(&mut stream, b"hello").await.unwrap();
    cutter.cut().await;
    assert_eq!(cutter.open(), 0);
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let refused = TcpStream::connect(cutter.address()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    cutter.restore().await;
    let mut stream = TcpStream::connect(cutter.address()).await.unwrap();
    assert_eq!(call(&mut stream, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn a_delayed_line_is_late_but_not_slow() {
    let cutter = echo().await;
    cutter.delay(Duration::from_millis(50));
    let mut stream = TcpStream::connect(cutter.address()).await.unwrap();
    let began = Instant::now();
    call(&mut stream, b"hello").await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(100));
    let began = Instant::now();
    let big = vec![1; 2_000_000];
    let (mut reader, mut writer) = stream.split();
    let mut back = vec![0; big.len()];
    let (sent, read) = tokio::join!(writer.write_all(&big), reader.read_exact(&mut back));
    sent.unwrap();
    read.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_half_open_line_swallows_everything_and_closes_nothing() {
    let cutter = echo().await;
    let mut old = TcpStream::connect(cutter.address()).await.unwrap();
    call(&mut old, b"hello").await.unwrap();
    cutter.half_open();
    let mut new = TcpStream::connect(cutter.address()).await.unwrap();
    for stream in [&mut old, &mut new] {
        let silent = timeout(Duration::from_millis(100), call(stream, b"lost")).await;
        assert!(silent.is_err(), "{silent:?}");
    }
    cutter.restore().await;
    assert!(old.read_u8().await.is_err());
    let mut stream = TcpStream::connect(cutter.address()).await.unwrap();
    assert_eq!(call(&mut stream, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn a_line_that_loses_one_direction_carries_the_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cutter = TcpCutter::start(listener.local_addr().unwrap().to_string()).await;
    let mut client = TcpStream::connect(cutter.address()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    cutter.swallow(false, true);
    client.write_all(b"there").await.unwrap();
    let mut got = [0; 5];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"there");
    server.write_all(b"back").await.unwrap();
    let silent = timeout(Duration::from_millis(100), client.read_u8()).await;
    assert!(silent.is_err(), "{silent:?}");
    cutter.restore().await;
    assert!(client.read_u8().await.is_err());
}

#[tokio::test]
async fn a_line_is_severed_after_the_very_byte() {
    let cutter = echo().await;
    let mut stream = TcpStream::connect(cutter.address()).await.unwrap();
    call(&mut stream, b"before").await.unwrap();
    cutter.sever_after(4);
    stream.write_all(b"0123456789").await.unwrap();
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).await.unwrap_err();
    assert_eq!((error.kind(), got.as_slice()), (ErrorKind::ConnectionReset, b"0123".as_slice()));
    let mut stream = TcpStream::connect(cutter.address()).await.unwrap();
    assert_eq!(call(&mut stream, b"once only").await.unwrap(), b"once only");
}

/// Clients that come back at once keep connections open all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_line_is_restored_while_its_clients_connect_again() {
    let cutter = echo().await;
    let address = cutter.address();
    let clients: Vec<_> = (0..200)
        .map(|_| {
            tokio::spawn(async move {
                loop {
                    if let Ok(mut stream) = TcpStream::connect(address).await {
                        while stream.read(&mut [0; 16]).await.is_ok_and(|read| read > 0) {}
                    }
                }
            })
        })
        .collect();
    for _ in 0..20 {
        eventually("clients are connected", SOON, async || cutter.open() > 0).await;
        cutter.swallow(false, true);
        timeout(SOON, cutter.restore()).await.expect("restored");
    }
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}
