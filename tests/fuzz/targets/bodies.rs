//! Bodies of any content type and encoding.

use proptest::prelude::*;
use trackfinity_unlocker::message::{
    FaultCode, Timestamp,
    request::{
        self, Content, EventAttributes, EventTime, MAX_BODY_BYTES, MAX_IDENTIFIER_BYTES, UnlockRequest,
    },
};

use super::{Bytes, Checked, gzip, text::Text};

pub const JSON: &str = "application/json";
pub const FORM: &str = "application/x-www-form-urlencoded";
pub const EVENT: &str = "application/cloudevents+json";
pub const BATCH: &str = "application/cloudevents-batch+json";
/// What client libraries write, and JSON of other names.
const OTHER_JSON: [&str; 3] = ["text/plain", "application/octet-stream", "application/data"];

/// A text and a number in identifiers that details must not contain.
pub const SECRETS: [&str; 2] = ["S3cr3t", "9078563412"];

/// How the body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    /// The last byte is missing.
    CutGzip,
}

/// A message, as far as it is read.
#[derive(Clone, Debug)]
pub struct Message {
    pub content_type: Option<String>,
    pub encoding: Option<String>,
    pub compression: Option<String>,
    pub id: Option<String>,
    pub time: Option<Result<Timestamp, String>>,
    /// Before it is packed.
    pub body: Bytes,
    pub packing: Packing,
}

impl Message {
    fn from_text(text: &Text<'_>) -> Self {
        let packing = match text.get("packing") {
            Some("gzip") => Packing::Gzip,
            Some("cut gzip") => Packing::CutGzip,
            _ => Packing::Plain,
        };
        let moment = text.moment("expirytime-ms").map(Ok);
        Self {
            content_type: text.owned("content-type"),
            encoding: text
                .owned("content-encoding")
                .or_else(|| (packing != Packing::Plain).then(|| "gzip".to_owned())),
            compression: text.owned("compression"),
            id: text.owned("ce-id"),
            time: moment.or_else(|| text.owned("ce-expirytime").map(Err)),
            body: Bytes(text.body.to_vec()),
            packing,
        }
    }

    /// Whether the body that is read is this one: it is not packed, or as the encoding says.
    fn is_read_as_it_is(&self) -> bool {
        let encoding = self.encoding.as_deref().unwrap_or("identity").to_ascii_lowercase();
        let plain = ["identity", "binary", "utf-8"];
        self.compression.is_none()
            && match self.packing {
                Packing::Plain => plain.contains(&encoding.as_str()),
                Packing::Gzip | Packing::CutGzip => encoding.contains("gzip"),
            }
    }
}

pub fn check_bytes(bytes: &[u8]) -> Checked {
    check(&Message::from_text(&Text::parse(bytes)))
}

pub fn is_good(identifier: &str) -> bool {
    (1..=MAX_IDENTIFIER_BYTES).contains(&identifier.len())
        && !identifier.trim().is_empty()
        && !identifier.chars().any(char::is_control)
}

pub fn check_request(request: &UnlockRequest) -> Checked {
    let given: Vec<_> = request.identifiers().given().collect();
    prop_assert!(!given.is_empty());
    prop_assert!(given.iter().all(|(_, identifier)| is_good(identifier)));
    let form = request.to_form();
    let sent: Vec<_> = form_urlencoded::parse(form.as_bytes()).collect();
    let same =
        |((name, value), (sent_name, sent)): (&(&str, &str), &(_, _))| name == sent_name && value == sent;
    prop_assert!(sent.len() == given.len() && given.iter().zip(&sent).all(same), "{form}");
    let again = serde_json::to_vec(request.identifiers()).expect("encodes");
    prop_assert_eq!(request::decode(Some(JSON), &again).request, Ok(request.clone()));
    // A form with U+FFFD is refused: there it may stand for bytes that are not UTF-8.
    if !given.iter().any(|(_, identifier)| identifier.contains(char::REPLACEMENT_CHARACTER)) {
        prop_assert_eq!(request::decode(Some(FORM), form.as_bytes()).request, Ok(request.clone()));
    }
    Ok(())
}

pub fn check(message: &Message) -> Checked {
    let Bytes(body) = &message.body;
    let media_type = message.content_type.as_deref().unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = ["", JSON].contains(&media_type.as_str()) || OTHER_JSON.contains(&media_type.as_str());
    let is_json =
        is_json || (media_type.ends_with("+json") && ![EVENT, BATCH].contains(&media_type.as_str()));
    let supported = is_json || [EVENT, FORM].contains(&media_type.as_str());
    let sent = match message.packing {
        Packing::Plain => body.clone(),
        Packing::Gzip => gzip(body),
        Packing::CutGzip => gzip(body).split_last().map(|(_, before)| before.to_vec()).unwrap_or_default(),
    };
    let event = EventAttributes {
        id: message.id.as_deref().filter(|id| !id.is_empty()),
        expirytime: message.time.as_ref().map(|time| match time {
            Ok(moment) => EventTime::Moment(*moment),
            Err(text) => EventTime::Text(text),
        }),
    };
    let content = Content {
        content_type: message.content_type.as_deref(),
        content_encoding: message.encoding.as_deref(),
        compression: message.compression.as_deref(),
        event,
    };
    let decoded = request::decode(content, &sent);
    if let Some(given) = &decoded.given_id {
        prop_assert!(!given.is_empty());
    }
    if let (Some(id), true) = (event.id, media_type != EVENT) {
        prop_assert_eq!(decoded.given_id.as_deref(), Some(id), "the attribute counts most");
    }
    if let (Some(moment), Some(EventTime::Moment(limit))) = (decoded.expires_at, event.expirytime) {
        prop_assert!(moment <= limit || media_type == EVENT, "the earliest counts");
    }
    match decoded.request {
        Ok(request) => {
            prop_assert!(supported);
            if message.is_read_as_it_is() {
                prop_assert!(body.len() <= MAX_BODY_BYTES && message.packing != Packing::CutGzip);
                prop_assert!(media_type == FORM || std::str::from_utf8(body).is_ok(), "JSON is UTF-8");
            }
            check_request(&request)
        }
        Err(fault) => check_fault(message, &fault, supported, media_type == EVENT),
    }
}

fn check_fault(message: &Message, fault: &request::Fault, supported: bool, is_event: bool) -> Checked {
    let Bytes(body) = &message.body;
    if message.encoding.is_none() && message.is_read_as_it_is() {
        prop_assert_eq!(fault.code == FaultCode::TooLarge, body.len() > MAX_BODY_BYTES);
        if body.len() <= MAX_BODY_BYTES && !is_event {
            prop_assert_eq!(fault.code == FaultCode::UnsupportedContentType, !supported);
        }
    }
    // What stands in a content type, or is the name of a field, is no identifier, and is shown.
    let about = [&message.content_type, &message.encoding, &message.compression];
    let said = fault.detail.split("; found: ").next().unwrap_or_default();
    let said = if said.starts_with("the CloudEvent's datacontenttype is") { "" } else { said };
    let secret = SECRETS.iter().find(|secret| {
        said.contains(**secret) && about.into_iter().flatten().all(|text| !text.contains(**secret))
    });
    prop_assert_eq!(secret, None, "the detail is {:?}", &fault.detail);
    prop_assert!(!fault.detail.is_empty() && fault.detail.len() <= 600, "{}", fault.detail);
    if let Some(readable) = &fault.readable {
        prop_assert!(matches!(fault.code, FaultCode::BadIdentifier | FaultCode::Malformed));
        prop_assert!(readable.given().next().is_some());
        prop_assert!(readable.given().all(|(_, identifier)| is_good(identifier)));
    }
    Ok(())
}
