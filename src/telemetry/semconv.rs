//! Names of span attributes and metric labels, from OpenTelemetry's semantic conventions for
//! messaging and HTTP.

/// The name of the instrumentation scope, and the service's name if the environment sets none.
pub const SCOPE: &str = "trackfinity-unlocker";

pub const ERROR_TYPE: &str = "error.type";
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
pub const HTTP_REQUEST_RESEND_COUNT: &str = "http.request.resend_count";
pub const HTTP_ROUTE: &str = "http.route";
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
pub const MESSAGING_CONVERSATION_ID: &str = "messaging.message.conversation_id";
pub const MESSAGING_DELIVERY_TAG: &str = "messaging.rabbitmq.message.delivery_tag";
pub const MESSAGING_DESTINATION: &str = "messaging.destination.name";
pub const MESSAGING_DESTINATION_TEMPORARY: &str = "messaging.destination.temporary";
pub const MESSAGING_BODY_SIZE: &str = "messaging.message.body.size";
pub const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
pub const MESSAGING_ROUTING_KEY: &str = "messaging.rabbitmq.destination.routing_key";
pub const MESSAGING_SYSTEM: &str = "messaging.system";
pub const SERVER_ADDRESS: &str = "server.address";
pub const SERVER_PORT: &str = "server.port";
pub const URL_FULL: &str = "url.full";

pub const RABBITMQ: &str = "rabbitmq";
