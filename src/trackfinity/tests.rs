use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use super::*;

static DISK_HANGS: AtomicBool = AtomicBool::new(false);

/// Blocks while the disk hangs.
fn slow(_: &str) -> Result<(), String> {
    while DISK_HANGS.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[tokio::test]
async fn a_disk_that_hangs_keeps_the_last_key_and_blocks_nothing() {
    let file = std::env::temp_dir().join(format!("unlocker-key-{}", uuid::Uuid::now_v7()));
    std::fs::write(&file, "key").expect("written");
    let url: url::Url = "http://localhost/".parse().expect("a URL");
    let client = Client {
        throttle: Arc::default(),
        http: reqwest::Client::new(),
        unlock_url: url.clone(),
        ping_url: url,
        api_key: Secret::open(&file, slow).expect("a key"),
        api_username: Secret::fixed("user"),
        timeout: Duration::from_secs(1),
    };
    DISK_HANGS.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let refreshed = tokio::time::timeout(Duration::from_secs(60), client.refresh_secrets()).await;
    let took = begun.elapsed();
    DISK_HANGS.store(false, Ordering::Relaxed);
    std::fs::remove_file(&file).expect("removed");
    assert!(refreshed.is_ok(), "blocked for {took:?}");
    assert!(took >= REFRESH_TIMEOUT, "given up after {took:?} already");
    assert_eq!(client.api_key.current().expose_secret(), "key");
}

#[tokio::test]
async fn a_proxy_that_wants_a_password_is_an_endpoint_fault() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = format!("http://{}", listener.local_addr().expect("an address"));
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("answered");
        String::from_utf8(head).expect("text")
    });
    let url: url::Url = "https://unlocker.invalid/".parse().expect("a URL");
    let proxy = reqwest::Proxy::https(proxy).expect("a proxy");
    let client = Client {
        throttle: Arc::default(),
        http: reqwest::Client::builder().proxy(proxy).build().expect("a client"),
        unlock_url: url.clone(),
        ping_url: url,
        api_key: Secret::fixed("key"),
        api_username: Secret::fixed("user"),
        timeout: Duration::from_secs(30),
    };
    let reply = client.ping(None).await;
    assert!(answering.await.expect("no panic").starts_with("CONNECT unlocker.invalid:443 "));
    let classification = crate::policy::classify(&reply);
    assert_eq!(
        classification,
        crate::policy::Classification::EndpointFault(crate::policy::Reason::Http(407)),
        "{reply:?}"
    );
}
