//! RabbitMQ's management HTTP API, as far as tests need it. Its numbers are seconds old: count ready messages
//! with [`Amqp::ready_count`](crate::Amqp::ready_count).

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

/// The API seen from one vhost. Every call gives up after 10 s; what fails is a panic unless it returns a `Result`.
#[derive(Clone)]
pub struct Management {
    client: Client,
    base: Url,
    vhost: String,
}

impl Management {
    pub(crate) fn new(base: Url, vhost: &str) -> Self {
        let client = Client::builder()
            .no_proxy()
            // Does not read the trust store, which takes longer than the call.
            .tls_certs_only([])
            .timeout(Duration::from_secs(10))
            .build()
            .expect("a client without options that fail");
        Self { client, base, vhost: vhost.into() }
    }

    /// The same view with connections of its own.
    pub(crate) fn anew(&self) -> Self {
        Self::new(self.base.clone(), &self.vhost)
    }

    /// `GET path`, such as `/api/overview`.
    ///
    /// # Errors
    /// What went wrong, with the status and the body.
    pub async fn get(&self, path: &str) -> Result<Value, String> {
        self.call(Method::GET, path, None).await
    }

    /// `PUT path` with a JSON body.
    ///
    /// # Errors
    /// What went wrong, with the status and the body.
    pub async fn put(&self, path: &str, body: Value) -> Result<Value, String> {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// What went wrong, with the status and the body.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value, String> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// What went wrong, with the status and the body.
    pub async fn delete(&self, path: &str) -> Result<Value, String> {
        self.call(Method::DELETE, path, None).await
    }

    /// The vhost's queues: `name`, `type`, `durable`, `arguments`, `policy`, …
    pub async fn queues(&self) -> Vec<Value> {
        self.list("queues").await
    }

    /// One queue, `None` if there is none of that name.
    pub async fn queue(&self, name: &str) -> Option<Value> {
        self.queues().await.into_iter().find(|queue| queue["name"] == name)
    }

    pub async fn exchanges(&self) -> Vec<Value> {
        self.list("exchanges").await
    }

    /// `source`, `destination`, `destination_type`, `routing_key`, `properties_key`; without the default exchange's.
    pub async fn bindings(&self) -> Vec<Value> {
        let mut bindings = self.list("bindings").await;
        bindings.retain(|binding| binding["source"] != "");
        bindings
    }

    pub async fn purge(&self, queue: &str) {
        done(self.delete(&format!("{}/contents", self.path(&["queues"], &[queue]))).await);
    }

    pub async fn delete_queue(&self, queue: &str) {
        done(self.delete(&self.path(&["queues"], &[queue])).await);
    }

    pub async fn delete_exchange(&self, exchange: &str) {
        done(self.delete(&self.path(&["exchanges"], &[exchange])).await);
    }

    /// Deletes the binding of a queue to an exchange.
    pub async fn delete_binding(&self, exchange: &str, queue: &str, routing_key: &str) {
        let (e, q) = (segment(exchange), segment(queue));
        let path = format!("/api/bindings/{}/e/{e}/q/{q}", segment(&self.vhost));
        let bindings = self.get(&path).await.unwrap_or_else(|error| panic!("{error}"));
        let found =
            bindings.as_array().into_iter().flatten().find(|binding| binding["routing_key"] == routing_key);
        let binding = found.unwrap_or_else(|| panic!("no binding {exchange} -> {queue} with {routing_key}"));
        let key = binding["properties_key"].as_str().unwrap_or("~");
        done(self.delete(&format!("{path}/{}", segment(key))).await);
    }

    /// Creates a user with tags (`management`, `monitoring`, …; comma-separated) and no permissions.
    pub async fn create_user(&self, name: &str, password: &str, tags: &str) {
        let body = json!({ "password": password, "tags": tags });
        done(self.put(&format!("/api/users/{}", segment(name)), body).await);
    }

    pub async fn delete_user(&self, name: &str) {
        done(self.delete(&format!("/api/users/{}", segment(name))).await);
    }

    /// Sets a user's permissions in this vhost, each a regular expression over resource names.
    pub async fn set_permissions(&self, user: &str, configure: &str, write: &str, read: &str) {
        let path = format!("/api/permissions/{}/{}", segment(&self.vhost), segment(user));
        done(self.put(&path, json!({ "configure": configure, "write": write, "read": read })).await);
    }

    /// Restricts a user to these routing keys on a topic exchange: regular expressions.
    pub async fn set_topic_permissions(&self, user: &str, exchange: &str, write: &str, read: &str) {
        let path = format!("/api/topic-permissions/{}/{}", segment(&self.vhost), segment(user));
        done(self.put(&path, json!({ "exchange": exchange, "write": write, "read": read })).await);
    }

    /// Sets a policy on the queues whose name matches `pattern`.
    pub async fn set_policy(&self, name: &str, pattern: &str, definition: Value) {
        let body =
            json!({ "pattern": pattern, "definition": definition, "apply-to": "queues", "priority": 10 });
        done(self.put(&self.path(&["policies"], &[name]), body).await);
    }

    pub async fn delete_policy(&self, name: &str) {
        done(self.delete(&self.path(&["policies"], &[name])).await);
    }

    /// The vhost's AMQP connections: `name`, `user`, `client_properties`, … A new one shows up within seconds.
    pub async fn connections(&self) -> Vec<Value> {
        let path = format!("/api/vhosts/{}/connections", segment(&self.vhost));
        array(self.get(&path).await)
    }

    /// Closes one AMQP connection, by the `name` of [`Management::connections`]; one that is gone already is fine.
    pub async fn close_connection(&self, name: &str) {
        match self.delete(&format!("/api/connections/{}", segment(name))).await {
            Err(error) if error.contains("404") => {}
            result => done(result),
        }
    }

    pub(crate) async fn create_vhost(&self) {
        done(self.put(&format!("/api/vhosts/{}", segment(&self.vhost)), json!({})).await);
        let user = percent_decoded(self.base.username());
        self.set_permissions(&user, ".*", ".*", ".*").await;
    }

    pub(crate) async fn delete_vhost(&self) -> Result<(), String> {
        match self.delete(&format!("/api/vhosts/{}", segment(&self.vhost))).await {
            Err(error) if error.contains("404") => Ok(()),
            result => result.map(drop),
        }
    }

    async fn list(&self, what: &str) -> Vec<Value> {
        array(self.get(&self.path(&[what], &[])).await)
    }

    /// `/api/WHAT/VHOST/NAMES`
    fn path(&self, what: &[&str], names: &[&str]) -> String {
        let vhost = [self.vhost.as_str()];
        let names: Vec<_> = vhost.iter().chain(names).map(|name| segment(name)).collect();
        format!("/api/{}/{}", what.join("/"), names.join("/"))
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        let mut url = self.base.clone();
        url.set_username("").ok();
        url.set_password(None).ok();
        let url = format!("{}{path}", url.as_str().trim_end_matches('/'));
        let (user, password) =
            (percent_decoded(self.base.username()), percent_decoded(self.base.password().unwrap_or("")));
        let mut request = self.client.request(method.clone(), &url).basic_auth(user, Some(password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let reply = request.send().await.map_err(|error| format!("{method} {url}: {error:?}"))?;
        let status = reply.status();
        let text = reply.text().await.map_err(|error| format!("{method} {url}: {error:?}"))?;
        if !status.is_success() {
            return Err(format!("{method} {url}: {status}: {text}"));
        }
        if text.is_empty() || status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|error| format!("{method} {url}: {error}: {text}"))
    }
}

fn done(result: Result<Value, String>) {
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn array(result: Result<Value, String>) -> Vec<Value> {
    match result {
        Ok(Value::Array(items)) => items,
        Ok(other) => panic!("not a list: {other}"),
        Err(error) => panic!("{error}"),
    }
}

/// A name as one segment of a path: everything that is not plainly harmless is percent-encoded.
pub(crate) fn segment(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn percent_decoded(text: &str) -> String {
    // `+` means a space in a form but itself in a URL's user part.
    let form = format!("x={}", text.replace('+', "%2B"));
    form_urlencoded::parse(form.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}
