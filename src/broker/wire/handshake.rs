//! The handshake: from an open socket to an open connection.

use lapin::{
    protocol::{AMQPClass, connection, constants},
    types::{AMQPValue, FieldTable, LongString},
    uri::{AMQPUri, SASLMechanism},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    WireError,
    frame::{Frame, encode_method, parse_method},
};

/// The largest frame before limits are negotiated, in bytes.
const FIRST_FRAME_MAX: usize = 128 * 1024;

/// The negotiated limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) channel_max: u16,
    /// In bytes.
    pub(super) frame_max: u32,
    /// In seconds; 0: no heartbeat.
    pub(super) heartbeat: u16,
}

/// Logs in and opens the virtual host.
pub(super) async fn shake_hands(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    url: &AMQPUri,
    name: &str,
) -> Result<Limits, WireError> {
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    let connection::AMQPMethod::Start(_start) = receive(stream).await? else {
        return Err(WireError::Protocol("no connection.start"));
    };
    let mechanism = url.query.auth_mechanism.unwrap_or_default();
    let start_ok = connection::StartOk {
        client_properties: client_properties(name),
        mechanism: mechanism.name().into(),
        response: response(mechanism, url),
        locale: "en_US".into(),
    };
    send(stream, connection::AMQPMethod::StartOk(start_ok)).await?;
    let connection::AMQPMethod::Tune(tune) = receive(stream).await? else {
        return Err(WireError::Protocol("no connection.tune"));
    };
    let limits = Limits {
        channel_max: smaller(url.query.channel_max.unwrap_or_default(), tune.channel_max, u16::MAX),
        frame_max: smaller(url.query.frame_max.unwrap_or_default(), tune.frame_max, u32::MAX),
        heartbeat: smaller(url.query.heartbeat.unwrap_or_default(), tune.heartbeat, 0),
    };
    let tune_ok = connection::TuneOk {
        channel_max: limits.channel_max,
        frame_max: limits.frame_max,
        heartbeat: limits.heartbeat,
    };
    send(stream, connection::AMQPMethod::TuneOk(tune_ok)).await?;
    let vhost = lapin::types::ShortString::try_new(url.vhost.as_str());
    let vhost = vhost.map_err(|_| WireError::Lost("the virtual host's name is too long".to_owned()))?;
    send(stream, connection::AMQPMethod::Open(connection::Open { virtual_host: vhost })).await?;
    match receive(stream).await? {
        connection::AMQPMethod::OpenOk(_) => Ok(limits),
        _ => Err(WireError::Protocol("no connection.open-ok")),
    }
}

/// The smaller of two limits, where 0 means no limit.
fn smaller<T: Ord + Default + Copy>(own: T, theirs: T, neither: T) -> T {
    [own, theirs].into_iter().filter(|limit| *limit != T::default()).min().unwrap_or(neither)
}

fn response(mechanism: SASLMechanism, url: &AMQPUri) -> LongString {
    let user = &url.authority.userinfo;
    match mechanism {
        SASLMechanism::Plain => format!("\0{}\0{}", user.username, user.password).into(),
        SASLMechanism::AMQPlain => {
            let mut login = FieldTable::default();
            login.insert("LOGIN".into(), AMQPValue::LongString(user.username.as_str().into()));
            login.insert("PASSWORD".into(), AMQPValue::LongString(user.password.as_str().into()));
            let table = lapin::types::generation::gen_field_table(&login)(Vec::new().into());
            let table = table.map(|written| written.into_inner().0).unwrap_or_default();
            // AMQPLAIN sends the table without its length.
            table.get(4..).unwrap_or_default().to_vec().into()
        }
        SASLMechanism::RabbitCrDemo => user.username.as_str().into(),
        SASLMechanism::External | SASLMechanism::Anonymous => LongString::default(),
    }
}

fn client_properties(name: &str) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut capabilities = FieldTable::default();
    for capability in [
        "publisher_confirms",
        "consumer_cancel_notify",
        "basic.nack",
        "connection.blocked",
        "authentication_failure_close",
    ] {
        capabilities.insert(capability.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("product".into(), text(env!("CARGO_PKG_NAME")));
    properties.insert("version".into(), text(env!("CARGO_PKG_VERSION")));
    properties.insert("platform".into(), text("Rust"));
    properties.insert("connection_name".into(), text(name));
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    method: connection::AMQPMethod,
) -> Result<(), WireError> {
    stream.write_all(&encode_method(0, &AMQPClass::Connection(method))?).await?;
    stream.flush().await?;
    Ok(())
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<connection::AMQPMethod, WireError> {
    loop {
        let frame = read_frame(stream, FIRST_FRAME_MAX).await?;
        if frame.kind == constants::FRAME_HEARTBEAT {
            continue;
        }
        return match parse_method(&frame.payload)? {
            AMQPClass::Connection(connection::AMQPMethod::Close(close)) => Err(WireError::ConnectionClosed {
                code: close.reply_code,
                text: close.reply_text.to_string(),
            }),
            AMQPClass::Connection(method) => Ok(method),
            _ => Err(WireError::Protocol("a method before the connection was open")),
        };
    }
}

/// Reads a frame with a payload of at most `frame_max` bytes.
pub(super) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    frame_max: usize,
) -> Result<Frame, WireError> {
    let kind = stream.read_u8().await?;
    let channel = stream.read_u16().await?;
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > frame_max {
        return Err(WireError::Protocol("a frame larger than negotiated"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    match stream.read_u8().await? {
        constants::FRAME_END => Ok(Frame { kind, channel, payload }),
        _ => Err(WireError::Protocol("a frame without an end")),
    }
}
