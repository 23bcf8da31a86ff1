//! Issues OAuth 2 tokens, as an authorization server would.

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::json;

/// What RabbitMQ calls itself in tokens: their audience, and the beginning of their scopes.
const RESOURCE: &str = "rabbitmq";
/// The name of the key in RabbitMQ's settings, and in the head of each token.
const KEY_ID: &str = "kit";

/// Issues tokens (ES256) with a key of its own.
pub struct TokenIssuer {
    key: KeyPair,
}

impl TokenIssuer {
    pub fn new() -> Self {
        Self { key: KeyPair::generate().expect("a key") }
    }

    /// The key to verify tokens with, PEM.
    pub fn public_key(&self) -> String {
        self.key.public_key_pem()
    }

    /// The lines of `rabbitmq.conf` for a RabbitMQ that accepts the tokens, and the users of its own database, too. The
    /// file `FILES/token.pem` holds the public key.
    pub fn conf() -> String {
        format!(
            "auth_backends.1 = rabbit_auth_backend_oauth2\nauth_backends.2 = rabbit_auth_backend_internal\n\
             auth_oauth2.resource_server_id = {RESOURCE}\nauth_oauth2.signing_keys.{KEY_ID} = FILES/token.pem"
        )
    }

    /// A token of `subject` that lives this long. A scope is such as `read:*/*/*`.
    pub fn token(&self, subject: &str, scopes: &[&str], lifetime: Duration) -> String {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
        let scopes: Vec<String> = scopes.iter().map(|scope| format!("{RESOURCE}.{scope}")).collect();
        // In the token itself, times are whole seconds.
        let expiry = (now + lifetime).as_secs();
        let claims = json!({
            "sub": subject, "aud": [RESOURCE], "scope": scopes, "iat": now.as_secs(), "exp": expiry,
            "jti": fastrand::u64(..).to_string(),
        });
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(&self.key.serialize_der());
        encode(&header, &claims, &key).expect("a token")
    }
}

impl Default for TokenIssuer {
    fn default() -> Self {
        Self::new()
    }
}
