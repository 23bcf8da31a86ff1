//! The OpenAPI document of the gateway, made from the code.

mod answers;
mod bodies;

use axum::{
    body::Bytes,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{answers::Accepted, batch::LineResult, intake, poll};
use crate::http::ProblemBody;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Unlock requests over HTTP",
        description = "Takes requests to unlock customers in Trackfinity, for services that do not speak AMQP. A request \
                       is accepted only after RabbitMQ has stored it. Delivery is at least once, and unlocking is \
                       idempotent: send a request again until its answer is final, with the same `Idempotency-Key`.\n\n\
                       Problems are `application/problem+json` (RFC 9457). `code` tells programs what is wrong; expect \
                       codes that are not listed here. `taken` tells whether the request was taken all the same. Only a \
                       head that is no HTTP, or has more than 16 KiB or 100 headers, is answered with an empty body: 400, \
                       414 or 431.\n\n\
                       A gateway without `gateway.clients_dir` serves its own machine alone and needs no credentials.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    servers((url = "/")),
    tags((name = "unlocks", description = "Requests and their outcomes"), (name = "description", description = "This document")),
    paths(intake::post, poll::get, description),
    components(schemas(Accepted, LineResult, ProblemBody)),
    security(("bearer" = []), ("webhook_id" = [], "webhook_timestamp" = [], "webhook_signature" = [])),
    modifiers(&Credentials)
)]
struct Document;

/// Describes this API.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "getDescription",
    tag = "description",
    responses(),
    security(())
)]
pub(super) fn description(document: Bytes) -> Response {
    let content_type = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (content_type, document).into_response()
}

/// What clients show who they are with.
struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        let token = "A token of the client's file: at least 32 visible ASCII characters.";
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(token)).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        for (name, header, description) in [
            (
                "webhook_id",
                "webhook-id",
                "Standard Webhooks: the id of the request, the same for each repeat. It is the request's key.",
            ),
            (
                "webhook_timestamp",
                "webhook-timestamp",
                "Standard Webhooks: now, in seconds since 1970, at most 5 minutes from the gateway's clock.",
            ),
            (
                "webhook_signature",
                "webhook-signature",
                "Standard Webhooks: `v1,` and the base64 of the HMAC-SHA256 over `id.timestamp.body`, made with a \
                 `whsec_…` secret of the client's file. Several with blanks between them are allowed.",
            ),
        ] {
            let key = ApiKeyValue::with_description(header, description);
            components.add_security_scheme(name, SecurityScheme::ApiKey(ApiKey::Header(key)));
        }
    }
}

const POST: &str = "/paths/~1v1~1unlocks/post";
const PARAMETERS: [&str; 2] =
    ["/paths/~1v1~1unlocks/post/parameters", "/paths/~1v1~1unlocks~1{id}/get/parameters"];

/// The OpenAPI document, as it is in `docs/openapi-gateway.json`.
///
/// # Errors
/// If the document cannot be encoded, which is not expected.
pub fn openapi() -> serde_json::Result<String> {
    let mut document = serde_json::to_value(Document::openapi())?;
    for (name, schema) in bodies::schemas()? {
        set(&mut document, "/components/schemas", name, schema);
    }
    for parameters in PARAMETERS {
        for parameter in document.pointer_mut(parameters).and_then(Value::as_array_mut).into_iter().flatten()
        {
            describe_as_text(parameter);
        }
    }
    set(&mut document, POST, "requestBody", bodies::request());
    set(&mut document, POST, "responses", answers::of_post()?);
    set(&mut document, "/paths/~1v1~1unlocks~1{id}/get", "responses", answers::of_outcome()?);
    set(&mut document, "/paths/~1openapi.json/get", "responses", answers::of_description()?);
    serde_json::to_string_pretty(&document).map(|text| text + "\n")
}

/// A parameter is absent or a text: `utoipa` describes what is optional as nullable.
fn describe_as_text(parameter: &mut Value) {
    let is_moment = parameter.get("name").and_then(Value::as_str) == Some("ce-expirytime");
    if let Some(schema) = parameter.get_mut("schema").and_then(Value::as_object_mut) {
        schema.insert("type".to_owned(), json!("string"));
        if is_moment {
            schema.insert("anyOf".to_owned(), json!([{"format": "date-time"}, {"maxLength": 0}]));
        }
    }
}

/// Sets a field of the object that a JSON pointer leads to.
fn set(document: &mut Value, object: &str, name: &str, value: Value) {
    if let Some(object) = document.pointer_mut(object).and_then(Value::as_object_mut) {
        object.insert(name.to_owned(), value);
    }
}
