//! A client that writes its frames byte by byte, as no library would: for messages that libraries refuse to send.

use std::io::{Error, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The property flags of AMQP 0-9-1's basic class.
pub const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
pub const MESSAGE_ID: u16 = 1 << 7;

/// One connection with one channel, in confirm mode.
pub struct RawAmqp(TcpStream);

impl RawAmqp {
    /// Connects to the URL's virtual host as its user.
    ///
    /// # Errors
    /// The connection's, or the broker answers otherwise than expected.
    pub async fn connect(url: &str) -> Result<Self> {
        let url: lapin::uri::AMQPUri = url.parse().map_err(|error: String| Error::other(error))?;
        let mut stream = TcpStream::connect((url.authority.host.clone(), url.authority.port)).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        let mut client = Self(stream);
        client.read_method(10, 10).await?;
        let user = url.authority.userinfo;
        let login = format!("\0{}\0{}", user.username, user.password);
        let start_ok = [&[0; 4][..], &short(b"PLAIN"), &long(login.as_bytes()), &short(b"en_US")].concat();
        client.write_method(0, 10, 11, &start_ok).await?;
        client.read_method(10, 30).await?;
        let tune_ok = [&2047_u16.to_be_bytes()[..], &131_072_u32.to_be_bytes(), &[0, 0]].concat();
        client.write_method(0, 10, 31, &tune_ok).await?;
        client.write_method(0, 10, 40, &[&short(url.vhost.as_bytes())[..], &[0, 0]].concat()).await?;
        client.read_method(10, 41).await?;
        client.write_method(1, 20, 10, &[0]).await?;
        client.read_method(20, 11).await?;
        client.write_method(1, 85, 10, &[0]).await?;
        client.read_method(85, 11).await?;
        Ok(client)
    }

    /// Publishes to a queue, persistent, and waits for the confirm. `flags` says which properties there are besides
    /// the delivery mode; the bytes of those before and after it follow.
    ///
    /// # Errors
    /// The connection's, or the broker does not confirm it.
    pub async fn publish(
        &mut self,
        queue: &str,
        flags: u16,
        before_mode: &[u8],
        after_mode: &[u8],
        body: &[u8],
    ) -> Result<()> {
        let target = [&[0, 0][..], &short(b""), &short(queue.as_bytes()), &[0]].concat();
        self.write_method(1, 60, 40, &target).await?;
        let size = (body.len() as u64).to_be_bytes();
        let flags = (flags | DELIVERY_MODE).to_be_bytes();
        let content =
            [&60_u16.to_be_bytes()[..], &[0, 0], &size, &flags, before_mode, &[2], after_mode].concat();
        self.write_frame(2, 1, &content).await?;
        self.write_frame(3, 1, body).await?;
        self.read_method(60, 80).await
    }

    async fn write_method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) -> Result<()> {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.write_frame(1, channel, &payload).await
    }

    async fn write_frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len()).map_err(Error::other)?.to_be_bytes();
        let frame = [&[kind][..], &channel.to_be_bytes(), &length, payload, &[0xce]].concat();
        self.0.write_all(&frame).await
    }

    async fn read_method(&mut self, class: u16, method: u16) -> Result<()> {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; length as usize + 1];
        self.0.read_exact(&mut payload).await?;
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        if !payload.starts_with(&expected) {
            return Err(Error::other(String::from_utf8_lossy(&payload).into_owned()));
        }
        Ok(())
    }
}

/// A short string as it is encoded.
///
/// # Panics
/// When it is longer than 255 bytes.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short string")][..], text].concat()
}

/// A long string, or a table of these bytes, as it is encoded.
///
/// # Panics
/// When it is longer than 4 GiB.
pub fn long(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).expect("a length").to_be_bytes()[..], text].concat()
}
