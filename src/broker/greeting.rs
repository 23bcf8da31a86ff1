//! Whether RabbitMQ answers: a connection that is ended at the login tells nothing about the login if it is a load
//! balancer without a backend, or a broker that restarts, that has ended it.

use std::{io, time::Duration};

use lapin::{AsyncTcpStream, protocol::constants, tcp::RustlsConnector, uri::AMQPUri};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

/// How long RabbitMQ may take.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a new connection is answered with a frame, which is `connection.start`.
pub(super) async fn is_received(url: &AMQPUri, tls: Option<&RustlsConnector>) -> bool {
    match timeout(GREETING_TIMEOUT, first_byte(url, tls)).await {
        Ok(Ok(byte)) => byte == constants::FRAME_METHOD,
        Ok(Err(error)) => {
            tracing::debug!(%error, "RabbitMQ did not greet");
            false
        }
        Err(_elapsed) => false,
    }
}

async fn first_byte(url: &AMQPUri, tls: Option<&RustlsConnector>) -> io::Result<u8> {
    let stream = TcpStream::connect((url.authority.host.as_str(), url.authority.port)).await?;
    let stream = AsyncTcpStream::Plain(stream.compat());
    let mut stream = match tls {
        None => stream,
        Some(tls) => stream.into_rustls(tls, &url.authority.host).await?,
    }
    .compat();
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    stream.flush().await?;
    stream.read_u8().await
}
