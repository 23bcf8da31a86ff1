//! Whether the files to log in to RabbitMQ with fit each other and `broker.url`.

use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use secrecy::ExposeSecret;

use super::{broker_urls::BrokerUrls, reader::Reader};
use crate::secret::Secret;

const URL: &str = "broker.url";
const TOKEN: &str = "broker.token_file";
const CERTIFICATE: &str = "broker.client_certificate_file";
const KEY: &str = "broker.client_key_file";
const AUTHORITIES: &str = "broker.ca_file";

/// Which of the files are given. `None`: it is not known, because there is another fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoginFiles {
    pub(super) token: Option<bool>,
    pub(super) certificate: Option<bool>,
    pub(super) key: Option<bool>,
    pub(super) authorities: Option<bool>,
}

impl LoginFiles {
    /// Records what does not fit.
    pub(super) fn check(self, urls: Option<&Secret>, reader: &mut Reader) {
        match (self.certificate, self.key) {
            (Some(true), Some(false)) => {
                reader.fault(KEY, "is required, because broker.client_certificate_file is set");
            }
            (Some(false), Some(true)) => {
                reader.fault(CERTIFICATE, "is required, because broker.client_key_file is set");
            }
            _ => {}
        }
        let Some(urls) = urls.map(Secret::current) else { return };
        let Ok(uris) = BrokerUrls::parse(urls.expose_secret()) else { return };
        let have_passwords = BrokerUrls::have_passwords(urls.expose_secret());
        if self.token == Some(true) && !reader.is_default(URL) && have_passwords.contains(&true) {
            let wrong = "is given, and broker.url has a password, too: RabbitMQ takes only one of them";
            reader.fault_with_remedy(
                TOKEN,
                wrong,
                "remove the password from broker.url, or remove broker.token_file",
            );
        }
        if self.token == Some(true) && uris.iter().any(is_external) {
            let wrong = "is given, and broker.url has auth_mechanism=external, with which the certificate is the login";
            reader.fault_with_remedy(
                TOKEN,
                wrong,
                "remove auth_mechanism from broker.url, or remove broker.token_file",
            );
        }
        if uris.iter().zip(&have_passwords).any(|(url, has_password)| is_external(url) && *has_password) {
            let wrong = "has a password in an address with auth_mechanism=external, with which the certificate is the login";
            reader.fault_with_remedy(URL, wrong, "remove the password, or remove auth_mechanism=external");
        }
        if self.certificate == Some(false)
            && self.key == Some(false)
            && uris.iter().any(|url| is_external(url) && is_tls(url))
        {
            let wrong = "is required, because broker.url has auth_mechanism=external, with which the certificate is the \
                login";
            reader.fault(CERTIFICATE, wrong);
        }
        if uris.iter().any(is_tls) {
            return;
        }
        for (key, given) in [(CERTIFICATE, self.certificate), (AUTHORITIES, self.authorities)] {
            if given == Some(true) {
                let wrong = "is never used, because no address in broker.url begins with amqps://";
                reader.fault_with_remedy(key, wrong, "write amqps:// in broker.url, or remove the file");
            }
        }
    }
}

fn is_external(url: &AMQPUri) -> bool {
    url.query.auth_mechanism == Some(SASLMechanism::External)
}

fn is_tls(url: &AMQPUri) -> bool {
    url.scheme == AMQPScheme::AMQPS
}
