//! HTTP by hand, so that nothing is added or left out, and a browser that keeps cookies.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::SOON;

pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    host: Option<String>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        let (method, path) = (method.to_owned(), path.to_owned());
        Self { method, path, headers: Vec::new(), host: None, body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another host than the page's own address.
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("content-type", "application/json")
    }

    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("content-type", content_type)
    }

    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        self.body = form.extend_pairs(fields).finish().into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    pub async fn send(&self, address: &str) -> Response {
        tokio::time::timeout(SOON, self.exchange(address)).await.expect("an answer in time")
    }

    async fn exchange(&self, address: &str) -> Response {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let host = self.host.as_deref().unwrap_or(address);
        let mut head =
            format!("{} {} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", self.body.len());
        stream.write_all(head.as_bytes()).await.expect("a request is sent");
        stream.write_all(&self.body).await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        Response::parse(&String::from_utf8_lossy(&answer))
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub cookies: Vec<String>,
    pub body: String,
}

impl Response {
    fn parse(answer: &str) -> Self {
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let (mut headers, mut cookies) = (BTreeMap::new(), Vec::new());
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            if name == "set-cookie" {
                cookies.push(value.to_owned());
            }
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        assert!(!headers.contains_key("transfer-encoding"), "pages are sent whole");
        Self { status: status.parse().expect("a number"), headers, cookies, body: body.to_owned() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub fn location(&self) -> &str {
        self.headers.get("location").unwrap_or_else(|| panic!("leads nowhere: {} {}", self.status, self.body))
    }
}

/// A browser: it keeps cookies, and says where its forms come from.
#[derive(Clone)]
pub struct Browser {
    pub address: String,
    cookies: BTreeMap<String, String>,
    /// The token of the last page's forms.
    pub csrf: String,
}

impl Browser {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), cookies: BTreeMap::new(), csrf: String::new() }
    }

    pub async fn get(&mut self, path: &str) -> Response {
        self.send(Request::new("GET", path)).await
    }

    /// Sends a form of the last page.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Response {
        let csrf = self.csrf.clone();
        self.send(self.form(path, &[&[("csrf", csrf.as_str())], fields].concat())).await
    }

    /// A form as this browser sends it from the page itself, with no fields but these.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> Request {
        let request = Request::new("POST", path).form(fields);
        request.header("origin", &format!("http://{}", self.address)).header("sec-fetch-site", "same-origin")
    }

    pub async fn send(&mut self, request: Request) -> Response {
        let response = request.header("cookie", &self.cookie()).send(&self.address).await;
        for cookie in &response.cookies {
            let (pair, _) = cookie.split_once(';').expect("attributes");
            let (name, value) = pair.split_once('=').expect("a value");
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        if let Some((_, rest)) = response.body.split_once(r#"name="csrf" value=""#) {
            self.csrf = rest.split('"').next().expect("a value").to_owned();
        }
        response
    }

    pub fn cookie(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    pub async fn log_in(&mut self, name: &str, token: &str) -> Response {
        self.get("/login").await;
        let response =
            self.post("/login", &[("name", name), ("token", token), ("to", "/dead-letters")]).await;
        if response.status == 303 {
            self.get("/").await;
        }
        response
    }
}
