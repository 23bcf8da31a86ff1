//! Why RabbitMQ ends a TLS connection. With TLS 1.3 it checks the client certificate only after the client believes that it
//! is connected, and has sent the first bytes of AMQP. The reason is then often lost: the system drops what was received
//! when the other end has closed the connection with bytes unread. So the reason is asked for on a connection on which
//! nothing is sent after the handshake.

use std::{io, time::Duration};

use lapin::{AsyncTcpStream, tcp::RustlsConnector, uri::AMQPUri};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

/// How long RabbitMQ may take to check the certificate. If it accepts it, it waits for the client.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(1);
/// With TLS 1.2 the reason may be lost here, too.
const TRIES: u32 = 3;

/// The alert with which RabbitMQ ends the connection, if it is received.
pub(super) async fn listen(url: &AMQPUri, tls: Option<&RustlsConnector>) -> Option<io::Error> {
    for _try in 0..TRIES {
        match timeout(LISTEN_TIMEOUT, handshake(url, tls?)).await {
            Ok(Err(error)) if error.to_string().contains("alert") => return Some(error),
            Ok(Err(error)) => tracing::debug!(%error, "no alert was received"),
            Ok(Ok(())) | Err(_) => return None,
        }
    }
    None
}

async fn handshake(url: &AMQPUri, tls: &RustlsConnector) -> io::Result<()> {
    let stream = TcpStream::connect((url.authority.host.as_str(), url.authority.port)).await?;
    let stream = AsyncTcpStream::Plain(stream.compat());
    let mut stream = stream.into_rustls(tls, &url.authority.host).await?.compat();
    stream.read_u8().await.map(drop)
}
