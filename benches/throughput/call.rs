//! The call of the bare loop: reqwest, and nothing around it.

use std::path::Path;

/// Calls the stand-in for Trackfinity. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    /// Trusts the authority in this file alone, if there is one.
    pub fn new(api: &str, authority: Option<&Path>) -> Self {
        let mut builder = reqwest::Client::builder().no_proxy().http1_only();
        if let Some(authority) = authority {
            let pem = std::fs::read(authority).expect("the authority's file");
            builder = builder.tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("an authority")]);
        }
        Self { http: builder.build().expect("a client"), url: format!("{api}/api/customer/unlock") }
    }

    pub async fn unlock(&self, customer_id: &str) {
        let body =
            form_urlencoded::Serializer::new(String::new()).append_pair("customer_id", customer_id).finish();
        let request = self
            .http
            .patch(self.url.as_str())
            .header("api-key", "key")
            .header("api-username", "user")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.text().await.expect("a body"), "true");
    }
}
