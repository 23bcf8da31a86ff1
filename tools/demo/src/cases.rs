//! The requests of the demo, and how each has to end.

use testbed::Properties;

/// The worker's `retry.max_attempts` in the demo: few, so that one request can be seen to be abandoned.
pub const MAX_ATTEMPTS: u32 = 3;

/// One request.
pub struct Case {
    /// What is special about it.
    pub name: &'static str,
    /// Its `message_id`, or its CloudEvent's id.
    pub id: &'static str,
    pub properties: Properties,
    pub body: Vec<u8>,
    pub expected: Expected,
    /// What the sandbox has to know for it.
    pub trackfinity: Trackfinity,
}

pub struct Expected {
    pub status: &'static str,
    pub reason: Option<&'static str>,
    pub attempts: u64,
}

/// What the sandbox does with the request's identifier.
pub enum Trackfinity {
    Unlocks(&'static str),
    /// Such answers first, then it unlocks.
    First(&'static str, &'static str),
    /// There is no such identifier, or it is never called.
    Nothing,
}

const JSON: &str = "application/json";

pub fn all() -> Vec<Case> {
    vec![
        case("customer_id alone", "customer", r#"{"customer_id":"191"}"#).unlocked("191"),
        case("subscription_id alone", "subscription", r#"{"subscription_id":"S-7"}"#).unlocked("S-7"),
        case("orderid alone", "order", r#"{"orderid":"EV-42"}"#).unlocked("EV-42"),
        case("an integer id", "integer", r#"{"customer_id":192}"#).unlocked("192"),
        case("a form body", "form", "customer_id=193&orderid=EV-43")
            .typed("application/x-www-form-urlencoded")
            .unlocked("193"),
        cloud_event(),
        case("meets 503 twice, then true", "flaky", r#"{"customer_id":"195"}"#).flaky("195", "503,503"),
        case("meets 503 every time", "down", r#"{"customer_id":"196"}"#).down("196", "503,503,503"),
        case("an unknown customer", "unknown", r#"{"customer_id":"404404"}"#).refused("http_404"),
        case("a blank customer_id", "blank", r#"{"customer_id":"  "}"#).invalid("no_identifier"),
        case("not JSON", "malformed", r#"{"customer_id":"#).invalid("malformed"),
        case("a fraction as customer_id", "fraction", r#"{"customer_id":19.5}"#).invalid("bad_identifier"),
        case("content type text/xml", "xml", "<customer_id>191</customer_id>")
            .typed("text/xml")
            .invalid("unsupported_content_type"),
        case(
            "a body of 65 KiB",
            "large",
            format!(r#"{{"customer_id":"191","note":"{}"}}"#, "x".repeat(65 * 1024)),
        )
        .invalid("too_large"),
    ]
}

fn case(name: &'static str, id: &'static str, body: impl Into<Vec<u8>>) -> Case {
    let properties = Properties::default().with_message_id(id.into()).with_delivery_mode(2);
    Case {
        name,
        id,
        properties: properties.with_content_type(JSON.into()),
        body: body.into(),
        expected: Expected { status: "unlocked", reason: None, attempts: 1 },
        trackfinity: Trackfinity::Nothing,
    }
}

/// It has no `message_id`: the event's id is the request's.
fn cloud_event() -> Case {
    let body = r#"{"specversion":"1.0","id":"cloud-event","source":"/demo","type":"unlock","data":{"customer_id":"194"}}"#;
    let mut case = case("a CloudEvent", "cloud-event", body).unlocked("194");
    case.properties = Properties::default().with_content_type("application/cloudevents+json".into());
    case
}

impl Case {
    fn typed(mut self, content_type: &str) -> Self {
        self.properties = self.properties.with_content_type(content_type.into());
        self
    }

    fn unlocked(mut self, identifier: &'static str) -> Self {
        self.trackfinity = Trackfinity::Unlocks(identifier);
        self
    }

    fn flaky(mut self, identifier: &'static str, statuses: &'static str) -> Self {
        self.trackfinity = Trackfinity::First(identifier, statuses);
        self.expected.attempts = MAX_ATTEMPTS.into();
        self
    }

    fn down(self, identifier: &'static str, statuses: &'static str) -> Self {
        let mut case = self.flaky(identifier, statuses);
        case.expected.status = "abandoned";
        case.expected.reason = Some("http_503");
        case
    }

    fn refused(mut self, reason: &'static str) -> Self {
        self.expected = Expected { status: "refused", reason: Some(reason), attempts: 1 };
        self
    }

    fn invalid(mut self, reason: &'static str) -> Self {
        self.expected = Expected { status: "invalid", reason: Some(reason), attempts: 0 };
        self
    }

    /// Whether it ends as a dead letter.
    pub fn dies(&self) -> bool {
        self.expected.status != "unlocked"
    }
}
