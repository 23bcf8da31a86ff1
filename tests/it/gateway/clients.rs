//! Clients: who may send requests.

use kit::Answer;
use tempfile::TempDir;

use super::world::{Gateway, json, problem};
use crate::world::World;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn clients(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("written");
    }
    directory
}

#[test]
fn a_client_is_known_by_its_token_and_a_stranger_learns_nothing() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let directory = clients(&[("shop", &format!("{TOKEN}\n"))]);
        let path = directory.path().to_str().expect("UTF-8");
        let gateway =
            Gateway::start(&world.ctx, world.ctx.amqp_url(), &[("GATEWAY__CLIENTS_DIR", path)]).await;
        let post = async |authorization: Option<&str>| {
            let request = json(r#"{"customer_id":191}"#);
            gateway
                .post(match authorization {
                    Some(value) => request.header("authorization", value),
                    None => request,
                })
                .await
        };
        let known = post(Some(&format!("Bearer {TOKEN}"))).await;
        assert_eq!(known.status, 202, "{known:?}");
        assert!(known.json()["id"].as_str().expect("an id").starts_with("shop/"));
        assert_eq!(world.outcome().await["requested_by"], "shop");
        let strangers = [None, Some("Bearer wrong"), Some("Basic c2hvcA=="), Some("Bearer"), Some("")];
        let mut answers = Vec::new();
        for stranger in strangers {
            let answer = post(stranger).await;
            assert_eq!(problem(&answer).0, 401);
            assert!(answer.headers.contains_key("www-authenticate"));
            answers.push(answer.body);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "one text for every cause: {answers:#?}");
    });
}

#[test]
fn a_page_in_a_browser_cannot_use_a_gateway_without_clients() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[]).await;
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let answer = gateway.post(json(r#"{"customer_id":191}"#).header(name, value)).await;
            assert_eq!(problem(&answer), (403, "browser_refused".to_owned(), None));
        }
        for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""] {
            let answer = gateway.post(json(r#"{"customer_id":191}"#).host(host)).await;
            assert_eq!(problem(&answer).0, 403, "{host}");
        }
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "[::1]:8080"] {
            assert_eq!(gateway.post(json(r#"{"customer_id":191}"#).host(host)).await.status, 202, "{host}");
        }
    });
}

#[test]
fn a_faulty_file_of_a_client_ends_the_gateway_like_faulty_settings() {
    kit::run(async |ctx| {
        let clients = clients(&[("shop", "short\n")]);
        let program = kit::Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .env("UNLOCKER__GATEWAY__CLIENTS_DIR", clients.path().to_str().expect("UTF-8"))
            .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
            .arg("gateway");
        let process = ctx.start(&program);
        assert_eq!(process.wait_exit(crate::world::SOON).await.code(), Some(78));
        let said = process.stderr().join("\n");
        assert!(said.contains("shop, line 1"), "{said}");
    });
}

#[test]
fn an_address_that_others_can_reach_needs_clients() {
    kit::run(async |ctx| {
        let program = kit::Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .env("UNLOCKER__GATEWAY__LISTEN", "0.0.0.0:0")
            .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
            .arg("gateway");
        let process = ctx.start(&program);
        assert_eq!(process.wait_exit(crate::world::SOON).await.code(), Some(78));
        let said = process.stderr().join("\n");
        assert!(
            said.contains("gateway.clients_dir") && said.contains("gateway.listen is 0.0.0.0:0"),
            "{said}"
        );
    });
}
