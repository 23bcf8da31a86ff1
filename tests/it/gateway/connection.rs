//! A connection that is kept open, and requests on it piece by piece.

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::world::SOON;

/// A client's connection.
pub struct Connection(BufReader<TcpStream>);

/// A status and a body.
pub type Answer = (u16, String);

/// A request as JSON with these headers, whole.
pub fn request(headers: &str, body: &str) -> String {
    format!(
        "POST /v1/unlocks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n\
         {body}",
        body.len()
    )
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.expect("a connection")))
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn write(&mut self, text: &str) -> std::io::Result<()> {
        self.0.get_mut().write_all(text.as_bytes()).await
    }

    /// Sends a request and reads its answer; `None` if the connection is closed.
    pub async fn send(&mut self, text: &str) -> Option<Answer> {
        self.write(text).await.ok()?;
        self.read().await
    }

    /// The next answer; `None` if the connection is closed.
    pub async fn read(&mut self) -> Option<Answer> {
        tokio::time::timeout(SOON * 2, self.answer()).await.expect("an answer or an end, in time")
    }

    async fn answer(&mut self) -> Option<Answer> {
        let (mut status, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if status.is_none() {
                status = Some(line.split(' ').nth(1)?.parse().expect("a status"));
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.ok()?;
        Some((status?, String::from_utf8(body).expect("UTF-8")))
    }
}
