//! The files to log in to RabbitMQ with.

use kit::{Authority, TokenIssuer};

use super::*;
use crate::secret::Refreshed;

const URL: &str = "UNLOCKER__BROKER__URL";
const TOKEN: &str = "UNLOCKER__BROKER__TOKEN_FILE";
const CERTIFICATE: &str = "UNLOCKER__BROKER__CLIENT_CERTIFICATE_FILE";
const KEY: &str = "UNLOCKER__BROKER__CLIENT_KEY_FILE";
const AUTHORITIES: &str = "UNLOCKER__BROKER__CA_FILE";

fn token() -> String {
    TokenIssuer::new().token("unlocker", &["read:*/*/*"], Duration::from_secs(3600))
}

/// A folder with what is right.
fn files() -> (Folder, [String; 4]) {
    let (folder, authority) = (Folder::new(), Authority::new("authority"));
    let (client, token) = (authority.client("unlocker"), token());
    let files = [
        ("token", token.as_str()),
        ("tls.crt", &client.certificate),
        ("tls.key", &client.key),
        ("ca.crt", authority.pem()),
    ];
    let paths = files.map(|(name, content)| path(&folder.write(name, content)));
    (folder, paths)
}

#[test]
fn a_token_is_the_password_of_each_url() {
    let (_folder, [token, ..]) = files();
    let settings = load(&[], &[(URL, "amqp://a,amqp://user@b"), (TOKEN, &token)]).unwrap();
    let urls = settings.rabbitmq.broker.uris().unwrap();
    let users: Vec<_> = urls.iter().map(|url| url.authority.userinfo.username.as_str()).collect();
    assert_eq!(users, ["", "user"]);
    assert!(urls.iter().all(|url| url.authority.userinfo.password.starts_with("eyJ")));
    assert_eq!(settings.secrets().len(), 1, "it is watched");
    let shown = format!("{settings:?} {:?} {}", settings.describe(), settings.rabbitmq.broker);
    assert!(!shown.contains("eyJ"), "{shown}");
    // Nobody gave the password of the compiled-in default.
    assert!(load(&[], &[(TOKEN, &token)]).is_ok());
}

#[test]
fn a_certificate_is_the_login_without_user_and_password() {
    let (_folder, [_, certificate, key, authorities]) = files();
    let url = "amqps://rabbit-0/prod?auth_mechanism=external";
    let given = [(URL, url), (CERTIFICATE, &certificate), (KEY, &key), (AUTHORITIES, &authorities)];
    let broker = load(&[], &given).unwrap().rabbitmq.broker;
    let info = CertificateInfo::of(broker.client_certificate_file.as_ref().unwrap()).unwrap();
    assert_eq!(info.subject, "O=kit,CN=unlocker");
    assert!(!info.has_expired());
    assert_eq!(broker.files().count(), 3);
}

#[test]
fn files_that_do_not_fit_each_other_or_the_url_are_faults() {
    let (_folder, [token, certificate, key, authorities]) = files();
    let tls = "amqps://rabbit-0/prod";
    let external = "amqps://rabbit-0/prod?auth_mechanism=external";
    for (given, name, part) in [
        (vec![(URL, tls), (CERTIFICATE, &certificate)], "broker.client_key_file", "is required"),
        (vec![(URL, tls), (KEY, &key)], "broker.client_certificate_file", "is required"),
        (vec![(URL, external)], "broker.client_certificate_file", "auth_mechanism=external"),
        (vec![(URL, "amqp://u:p@h"), (TOKEN, &token)], "broker.token_file", "has a password, too"),
        (
            vec![(URL, external), (TOKEN, &token), (CERTIFICATE, &certificate), (KEY, &key)],
            "broker.token_file",
            "the certificate is the login",
        ),
        (
            vec![(URL, "amqps://u:p@h?auth_mechanism=external"), (CERTIFICATE, &certificate), (KEY, &key)],
            "broker.url",
            "the certificate is the login",
        ),
        (vec![(URL, "amqp://h"), (AUTHORITIES, &authorities)], "broker.ca_file", "begins with amqps://"),
        (
            vec![(URL, "amqp://h"), (CERTIFICATE, &certificate), (KEY, &key)],
            "broker.client_certificate_file",
            "begins with amqps://",
        ),
    ] {
        let fault = only_fault(&[], &given);
        assert_eq!(fault.key, name);
        assert!(fault.wrong.contains(part), "{part}: {fault:?}");
    }
    // A proxy beside the program presents the certificate.
    assert!(load(&[], &[(URL, "amqp://localhost?auth_mechanism=external")]).is_ok());
}

#[test]
fn a_file_that_is_missing_empty_or_something_else_is_one_fault_that_names_key_and_file() {
    let (folder, [token, certificate, key, _]) = files();
    let empty = path(&folder.write("empty", "\n"));
    let encrypted = path(&folder.write("encrypted", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
    let missing = path(&folder.0.join("missing"));
    for (variable, file, part) in [
        (TOKEN, &missing, "cannot be read"),
        (TOKEN, &empty, "is empty"),
        (TOKEN, &key, "not a JSON Web Token"),
        (CERTIFICATE, &missing, "cannot be read"),
        (CERTIFICATE, &key, "it is a private key, not a certificate"),
        (CERTIFICATE, &token, "it is not PEM"),
        (KEY, &certificate, "it is a certificate, not a private key"),
        (KEY, &encrypted, "decrypt it"),
        (AUTHORITIES, &token, "it is not PEM"),
    ] {
        let others = [(CERTIFICATE, &certificate), (KEY, &key)]
            .into_iter()
            .filter(|(other, _)| *other != variable && [CERTIFICATE, KEY].contains(&variable));
        let others = others.map(|(name, value)| (name, value.as_str()));
        let given = [(URL, "amqps://h"), (variable, file.as_str())].into_iter().chain(others);
        let fault = only_fault(&[], &given.collect::<Vec<_>>());
        assert_eq!(crate::settings::keys::variable(&fault.key), variable);
        assert!(fault.wrong.contains(part) && fault.wrong.contains(file), "{part}: {fault:?}");
        assert!(!format!("{fault:?}").contains("BEGIN ENCR"), "{fault:?}");
        let is_content = file != &missing;
        assert_eq!(fault.remedy.contains("replace the file's content"), is_content, "{fault:?}");
    }
    let fault = only_fault(&[], &[(URL, "amqp://h"), (TOKEN, &self::token())]);
    assert!(fault.wrong.contains("is not a path") && !format!("{fault:?}").contains("eyJ"), "{fault:?}");
}

#[tokio::test]
async fn a_token_that_is_half_written_keeps_the_last_one() {
    let (folder, [token, ..]) = files();
    let broker = load(&[], &[(TOKEN, &token)]).unwrap().rabbitmq.broker;
    let secret = broker.token_file.as_ref().unwrap();
    let whole = self::token();
    let first = value(secret);
    folder.write("token", &whole[..whole.len() / 2]);
    assert_eq!(secret.refresh().await, Refreshed::Failed);
    assert_eq!(value(secret), first);
    folder.write("token", format!("{whole} \n\n"));
    assert_eq!(secret.refresh().await, Refreshed::Changed);
    assert_eq!(broker.uris().unwrap()[0].authority.userinfo.password, whole);
}
