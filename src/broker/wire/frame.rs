//! Frames, and how messages are assembled from them.

use std::fmt;

use lapin::protocol::{AMQPClass, constants, gen_class, parse_class};

use super::WireError;
use crate::message::{Properties, headers};

/// Class and method of basic.deliver and basic.return, whose texts may not be UTF-8.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const RETURN: [u8; 4] = [0, 60, 0, 50];
/// Memory for a body is reserved at once up to this size, in bytes.
const MAX_RESERVED_BYTES: usize = 1024 * 1024;

/// A message as RabbitMQ delivered it.
#[derive(Clone, Debug)]
pub struct WireDelivery {
    pub consumer_tag: String,
    pub delivery_tag: u64,
    pub redelivered: bool,
    /// Exchange and routing key have U+FFFD where they are not UTF-8.
    pub exchange: String,
    pub routing_key: String,
    pub properties: Properties,
    pub body: Vec<u8>,
}

impl WireDelivery {
    /// How often RabbitMQ has delivered it before, and it was not settled.
    pub fn redeliveries(&self) -> u32 {
        headers::redeliveries(self.redelivered, self.properties.lossy().headers().as_ref())
    }
}

/// Whether a delivery is passed on without its body, which is then not kept in memory.
pub(super) type LeavesBody = dyn Fn(&WireDelivery) -> bool + Send;

/// What a channel receives.
#[derive(Debug)]
pub(super) enum Event {
    Method(AMQPClass),
    Delivery(Box<WireDelivery>),
    /// RabbitMQ returned a mandatory message.
    Returned,
}

/// A frame, without its header and end byte.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) channel: u16,
    pub(super) payload: Vec<u8>,
}

/// The bytes of a frame.
pub(super) fn encode(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 8);
    frame.push(kind);
    frame.extend(channel.to_be_bytes());
    frame.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(payload);
    frame.push(constants::FRAME_END);
    frame
}

/// The bytes of a method's frame.
pub(super) fn encode_method(channel: u16, method: &AMQPClass) -> Result<Vec<u8>, WireError> {
    match gen_class(method)(Vec::new().into()) {
        Ok(written) => Ok(encode(constants::FRAME_METHOD, channel, &written.into_inner().0)),
        Err(error) => Err(WireError::Lost(format!("a method cannot be encoded: {error}"))),
    }
}

/// The bytes of a message's content: a header frame, and body frames of at most `frame_max` bytes.
pub(super) fn encode_content(channel: u16, properties: &[u8], body: &[u8], frame_max: usize) -> Vec<u8> {
    let size = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let header = [&60_u16.to_be_bytes()[..], &[0, 0], &size.to_be_bytes(), properties].concat();
    let mut bytes = encode(constants::FRAME_HEADER, channel, &header);
    for chunk in body.chunks(frame_max.saturating_sub(8).max(1)) {
        bytes.extend(encode(constants::FRAME_BODY, channel, chunk));
    }
    bytes
}

/// Reads a method.
pub(super) fn parse_method(payload: &[u8]) -> Result<AMQPClass, WireError> {
    match parse_class(payload) {
        Ok((_rest, method)) => Ok(method),
        Err(_error) => Err(WireError::Protocol("a method that cannot be read")),
    }
}

/// Assembles messages from the frames of one channel.
#[derive(Default)]
pub(super) struct Assembly {
    message: Option<Partial>,
    pub(super) leaves_body: Option<Box<LeavesBody>>,
}

impl fmt::Debug for Assembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembly").field("message", &self.message).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Partial {
    delivery: WireDelivery,
    is_return: bool,
    /// Bytes of the body that are still to come; unknown before the header.
    missing: Option<u64>,
    leaves_body: bool,
}

impl Assembly {
    /// Adds a frame; returns the event that it completes, if any.
    pub(super) fn add(&mut self, frame: &Frame) -> Result<Option<Event>, WireError> {
        match frame.kind {
            constants::FRAME_METHOD => match frame.payload.split_first_chunk() {
                Some((&DELIVER, arguments)) => self.begin(deliver(arguments), false),
                Some((&RETURN, _arguments)) => self.begin(Some(empty()), true),
                _ => parse_method(&frame.payload).map(|method| Some(Event::Method(method))),
            },
            constants::FRAME_HEADER => self.header(&frame.payload),
            constants::FRAME_BODY => self.body(&frame.payload),
            _ => Ok(None),
        }
    }

    fn begin(&mut self, delivery: Option<WireDelivery>, is_return: bool) -> Result<Option<Event>, WireError> {
        let delivery = delivery.ok_or(WireError::Protocol("a delivery that cannot be read"))?;
        self.message = Some(Partial { delivery, is_return, missing: None, leaves_body: false });
        Ok(None)
    }

    fn header(&mut self, payload: &[u8]) -> Result<Option<Event>, WireError> {
        // Class and weight (4 bytes, not needed), the body's size, and the properties.
        let parts = payload.get(4..).and_then(|rest| rest.split_first_chunk());
        let (Some(partial), Some((size, properties))) = (&mut self.message, parts) else {
            return Err(WireError::Protocol("a content header out of place"));
        };
        let size = u64::from_be_bytes(*size);
        partial.missing = Some(size);
        partial.delivery.properties = Properties::parse(properties);
        partial.leaves_body = self.leaves_body.as_ref().is_some_and(|leaves| leaves(&partial.delivery));
        if !partial.leaves_body {
            let reserved = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_RESERVED_BYTES);
            partial.delivery.body.reserve(reserved);
        }
        Ok(self.completed())
    }

    fn body(&mut self, payload: &[u8]) -> Result<Option<Event>, WireError> {
        let Some(partial) = &mut self.message else {
            return Err(WireError::Protocol("a body out of place"));
        };
        let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        partial.missing = partial.missing.map(|missing| missing.saturating_sub(length));
        if !partial.leaves_body {
            partial.delivery.body.extend(payload);
        }
        Ok(self.completed())
    }

    fn completed(&mut self) -> Option<Event> {
        self.message.take_if(|partial| partial.missing == Some(0)).map(|message| match message.is_return {
            true => Event::Returned,
            false => Event::Delivery(Box::new(message.delivery)),
        })
    }
}

fn empty() -> WireDelivery {
    WireDelivery {
        consumer_tag: String::new(),
        delivery_tag: 0,
        redelivered: false,
        exchange: String::new(),
        routing_key: String::new(),
        properties: Properties::Readable(lapin::BasicProperties::default()),
        body: Vec::new(),
    }
}

/// The arguments of basic.deliver.
fn deliver(arguments: &[u8]) -> Option<WireDelivery> {
    let (consumer_tag, rest) = short(arguments)?;
    let (tag, rest) = rest.split_first_chunk()?;
    let (redelivered, rest) = rest.split_first()?;
    let (exchange, rest) = short(rest)?;
    let (routing_key, _) = short(rest)?;
    Some(WireDelivery {
        consumer_tag,
        delivery_tag: u64::from_be_bytes(*tag),
        redelivered: redelivered & 1 != 0,
        exchange,
        routing_key,
        ..empty()
    })
}

fn short(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((String::from_utf8_lossy(text).into_owned(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut rest = bytes;
        while let Some((head, after)) = rest.split_first_chunk::<7>() {
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let channel = u16::from_be_bytes([head[1], head[2]]);
            frames.push(Frame { kind: head[0], channel, payload: after[..length].to_vec() });
            assert_eq!(after[length], constants::FRAME_END);
            rest = &after[length + 1..];
        }
        frames
    }

    fn delivery_frame() -> Frame {
        let texts = [&DELIVER[..], b"\x01c", &7_u64.to_be_bytes(), &[1], b"\x00", b"\x02k\xff"].concat();
        Frame { kind: constants::FRAME_METHOD, channel: 1, payload: texts }
    }

    #[test]
    fn a_delivery_is_assembled_whatever_its_routing_key_and_properties_are() {
        for body in [&b""[..], b"x", &[7; 5000]] {
            let mut assembly = Assembly::default();
            assert!(assembly.add(&delivery_frame()).expect("a method").is_none());
            let content = frames(&encode_content(1, b"\x00\x80\x01\xff", body, 1000));
            let mut events = content.iter().map(|frame| assembly.add(frame).expect("content"));
            let Some(Some(Event::Delivery(delivery))) = events.by_ref().find(Option::is_some) else {
                panic!("no delivery")
            };
            assert!(events.next().is_none());
            assert_eq!((delivery.delivery_tag, delivery.redelivered), (7, true));
            assert_eq!((delivery.routing_key.as_str(), &delivery.body[..]), ("k\u{fffd}", body));
            assert!(matches!(delivery.properties, Properties::Unreadable(_)));
        }
    }

    #[test]
    fn a_body_that_is_left_is_passed_over_and_the_next_one_is_whole() {
        let leaves = |delivery: &WireDelivery| matches!(delivery.properties, Properties::Readable(_));
        let mut assembly = Assembly { leaves_body: Some(Box::new(leaves)), ..Assembly::default() };
        let (readable, unreadable) = (&b"\x00\x00"[..], &b"\x00\x80\x01\xff"[..]);
        for (properties, body) in
            [(readable, &b""[..]), (unreadable, b"kept"), (readable, b""), (unreadable, b"kept")]
        {
            assert!(assembly.add(&delivery_frame()).expect("a method").is_none());
            let content = frames(&encode_content(1, properties, b"kept", 10));
            let mut events = content.iter().filter_map(|frame| assembly.add(frame).expect("content"));
            let Some(Event::Delivery(delivery)) = events.next() else { panic!("no delivery") };
            assert_eq!((&delivery.body[..], delivery.body.capacity() == 0), (body, body.is_empty()));
            assert!(events.next().is_none());
        }
    }

    proptest! {
        #[test]
        fn frames_of_any_bytes_make_an_event_or_an_error(
            all in vec((1_u8..10, vec(any::<u8>(), 0..60), any::<bool>()), 0..6)
        ) {
            let mut assembly = Assembly::default();
            for (kind, payload, deliver) in all {
                let payload = if deliver { [&DELIVER[..], &payload].concat() } else { payload };
                let _event_or_error = assembly.add(&Frame { kind, channel: 1, payload }).is_ok();
            }
        }
    }
}
