//! One request over HTTP, through `unlocker gateway`, which waits for its outcome.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::Stage;

/// The request's key; its id is the client's name and the key.
const KEY: &str = "order-42";
const BODY: &str = r#"{"customer_id":"191"}"#;

/// The answer to the request.
pub struct Answer {
    /// The status line and the headers.
    head: String,
    body: String,
}

/// The same request for another program.
pub fn curl(stage: &Stage, key: &str) -> String {
    let url = format!("http://{}/v1/unlocks", stage.gateway_address);
    format!(
        "curl -i -H 'Idempotency-Key: {key}' -H 'Prefer: wait=30' -H 'Content-Type: application/json' -d '{BODY}' {url}"
    )
}

/// Sends the request, and prints it with its answer.
pub async fn play(stage: &Stage) -> Answer {
    println!("\nOver HTTP, by `unlocker gateway`:\n\n  {}\n", curl(stage, KEY));
    let answer = send(&stage.gateway_address).await.expect("the gateway answers");
    for line in answer.head.lines().chain(["", answer.body.as_str()]) {
        println!("  {line}");
    }
    answer
}

async fn send(address: &str) -> std::io::Result<Answer> {
    let head = format!(
        "POST /v1/unlocks HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nidempotency-key: {KEY}\r\nprefer: wait=30\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        BODY.len()
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all((head + BODY).as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok(Answer { head: head.to_owned(), body: body.to_owned() })
}

impl Answer {
    /// The id of the request, if the answer is an outcome.
    pub fn request_id(&self) -> String {
        self.outcome()["request_id"].as_str().unwrap_or_default().to_owned()
    }

    fn outcome(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// How the answer differs from what it should be.
    pub fn fault(&self) -> Option<String> {
        let is_as_expected = self.head.starts_with("HTTP/1.1 200 ")
            && self.outcome()["status"] == "unlocked"
            && self.request_id().ends_with(KEY);
        (!is_as_expected).then(|| format!("over HTTP: {} {}", self.head, self.body))
    }
}
