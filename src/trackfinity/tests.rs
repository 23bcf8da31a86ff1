use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant as StdInstant,
};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    policy::{Classification, Reason, classify},
    settings::Settings,
};

static DISK_HANGS: AtomicBool = AtomicBool::new(false);

/// Blocks while the disk hangs.
fn slow(_: &str) -> Result<(), String> {
    while DISK_HANGS.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A client with these settings: their variables' names without `UNLOCKER__TRACKFINITY__`.
fn client(settings: &[(&str, &str)]) -> Client {
    let needed = [("API_KEY", "key"), ("API_USERNAME", "user"), ("TIMEOUT", "30s")];
    let variables = needed
        .iter()
        .chain(settings)
        .map(|(name, value)| (format!("UNLOCKER__TRACKFINITY__{name}"), (*value).to_owned()));
    let settings = Settings::load(&[], variables).expect("valid settings");
    Client::new(&settings.trackfinity).expect("a client")
}

#[tokio::test]
async fn a_disk_that_hangs_keeps_the_last_key_and_blocks_nothing() {
    let file = std::env::temp_dir().join(format!("unlocker-key-{}", uuid::Uuid::now_v7()));
    std::fs::write(&file, "key").expect("written");
    let client = Client {
        api_key: Secret::open(&file, slow).expect("a key"),
        ..client(&[("BASE_URL", "http://localhost/")])
    };
    DISK_HANGS.store(true, Ordering::Relaxed);
    let begun = StdInstant::now();
    let refreshed = tokio::time::timeout(Duration::from_secs(60), client.refresh_secrets()).await;
    let took = begun.elapsed();
    DISK_HANGS.store(false, Ordering::Relaxed);
    std::fs::remove_file(&file).expect("removed");
    assert!(refreshed.is_ok(), "blocked for {took:?}");
    assert!(took >= REFRESH_TIMEOUT, "given up after {took:?} already");
    assert_eq!(client.api_key.current().expose_secret(), "key");
}

/// What a client gets by a proxy that answers each CONNECT so, and the heads that the proxy got.
async fn reply_through_proxy(answer: &'static str) -> (Reply, String, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let answering = tokio::spawn(async move {
        let mut heads = Vec::new();
        while let Ok(Ok((mut stream, _))) =
            tokio::time::timeout(Duration::from_secs(1), listener.accept()).await
        {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a head"));
            }
            stream.write_all(answer.as_bytes()).await.expect("answered");
            heads.push(String::from_utf8(head).expect("text"));
        }
        heads
    });
    let proxy = format!("http://us%40er:pa%2Fhunter2@{address}");
    let client = client(&[("BASE_URL", "https://unlocker.invalid/"), ("PROXY", &proxy)]);
    let reply = client.ping(None).await;
    assert!(!format!("{client:?} {reply:?}").contains("hunter2"));
    (reply, address, answering.await.expect("no panic"))
}

#[tokio::test]
async fn a_refused_tunnel_has_the_status_of_the_proxy_and_is_asked_for_with_the_login() {
    for (status, expected) in [
        (407, Classification::EndpointFault(Reason::ProxyRefused(407))),
        (401, Classification::EndpointFault(Reason::ProxyRefused(401))),
        (403, Classification::EndpointFault(Reason::ProxyRefused(403))),
        (302, Classification::EndpointFault(Reason::ProxyRefused(302))),
        (405, Classification::EndpointFault(Reason::ProxyRefused(405))),
        (501, Classification::EndpointFault(Reason::ProxyRefused(501))),
        (429, Classification::Transient(Reason::ProxyRefused(429), None)),
        (500, Classification::Transient(Reason::ProxyRefused(500), None)),
        (503, Classification::Transient(Reason::ProxyRefused(503), None)),
    ] {
        let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: 3\r\nretry-after: 1\r\n\r\nno\n");
        let (reply, proxy, heads) = reply_through_proxy(answer.leak()).await;
        assert_eq!(classify(&reply), expected, "{reply:?}");
        let detail = format!("the HTTP proxy {proxy} answered {status} to CONNECT");
        assert_eq!(reply, Reply::NoTunnel { status: Some(status), detail });
        for head in heads {
            assert!(head.starts_with("CONNECT unlocker.invalid:443 HTTP/1.1\r\n"), "{head}");
            let login = BASE64.encode("us@er:pa/hunter2");
            assert!(
                head.to_lowercase().contains(&format!("proxy-authorization: basic {login}").to_lowercase())
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_proxy_is_an_outage_that_names_it() {
    let (reply, proxy, _) = reply_through_proxy("SSH-2.0-OpenSSH_9.2\r\n").await;
    let Reply::NoTunnel { status: None, detail } = &reply else { panic!("{reply:?}") };
    assert!(
        detail.starts_with(&format!("the HTTP proxy {proxy} gave no HTTP answer to CONNECT")),
        "{detail}"
    );
    assert_eq!(classify(&reply), Classification::Transient(Reason::ProxyConnection, None));
}

#[tokio::test]
async fn a_proxy_that_is_silent_is_an_outage_that_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let silent = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push(connection);
        }
    });
    let proxy = format!("http://{address}");
    let client =
        client(&[("BASE_URL", "https://unlocker.invalid/"), ("PROXY", &proxy), ("CONNECT_TIMEOUT", "100ms")]);
    let reply = client.ping(None).await;
    silent.abort();
    let detail = format!("the HTTP proxy {address} gave no answer to CONNECT in time");
    assert_eq!(reply, Reply::NoTunnel { status: None, detail });
    assert_eq!(classify(&reply), Classification::Transient(Reason::ProxyConnection, None));
}

#[tokio::test]
async fn a_silence_behind_the_proxy_is_none_of_the_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let opens = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("answered");
            connections.push(connection);
        }
    });
    let proxy = format!("http://{address}");
    let client =
        client(&[("BASE_URL", "https://unlocker.invalid/"), ("PROXY", &proxy), ("CONNECT_TIMEOUT", "200ms")]);
    let reply = client.ping(None).await;
    opens.abort();
    assert_eq!(reply, Reply::Timeout);
}

#[tokio::test]
async fn a_failure_behind_the_proxy_is_none_of_the_proxy() {
    // The tunnel is open, and what is behind it has no TLS.
    let (reply, ..) = reply_through_proxy("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert!(matches!(reply, Reply::Connection(_)), "{reply:?}");
}
