//! The gateway's OpenAPI document: as it is kept in docs, as it is served, and as schemathesis tries it.

use std::path::Path;

use kit::{Answer, Program};
use serde_json::Value;
use tempfile::TempDir;

use super::world::{Front, problem};
use crate::{console::http::Request, libraries};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn the_description_of_the_gateway_is_the_one_in_the_documents() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi-gateway.json");
    let made = trackfinity_unlocker::gateway::openapi().expect("a document");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &made).expect("the document is written");
    }
    let kept = std::fs::read_to_string(path).expect("docs/openapi-gateway.json");
    assert!(
        kept == made,
        "docs/openapi-gateway.json is out of step: UPDATE_DOCS=1 cargo test --test it gateway::openapi writes it"
    );
}

/// A directory with one client, whose name is as long as it may be.
fn shop() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("s".repeat(64)), format!("{TOKEN}\n")).expect("written");
    directory
}

async fn front(ctx: kit::Context, clients: &TempDir) -> Front {
    let path = clients.path().to_str().expect("UTF-8");
    let settings = [("GATEWAY__CLIENTS_DIR", path), ("GATEWAY__MAX_WAIT", "1s")];
    Front::start_with(ctx, &settings, |_| Answer::unlocked()).await
}

#[test]
fn the_gateway_serves_its_description_to_everybody() {
    kit::run(async |ctx| {
        let clients = shop();
        let gateway = front(ctx, &clients).await.gateway;
        let answer = gateway.post(Request::new("GET", "/openapi.json")).await;
        assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/json"));
        assert_eq!(answer.body, trackfinity_unlocker::gateway::openapi().expect("a document"));
        let head = gateway.post(Request::new("HEAD", "/openapi.json")).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert_eq!(head.headers["content-length"], answer.body.len().to_string());
        let refused = gateway.post(Request::new("POST", "/openapi.json")).await;
        assert_eq!(problem(&refused).0, 405);
        assert_eq!(refused.headers["allow"], "GET, HEAD");
    });
}

/// What came of a batch is described in words, because OpenAPI 3.1 knows no lines.
#[test]
fn the_results_of_a_batch_are_as_described() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let made = trackfinity_unlocker::gateway::openapi().expect("a document");
        let mut schema: Value = serde_json::from_str(&made).expect("JSON");
        schema["$ref"] = "#/components/schemas/BatchResult".into();
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let lines = "{\"customer_id\":1}\n{\"customer_id\":{}}\n";
        for prefer in ["wait=20", "wait=0"] {
            let batch = Request::new("POST", "/v1/unlocks").body("application/x-ndjson", lines);
            let answer = front.gateway.post(batch.header("prefer", prefer)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            for line in answer.body.lines() {
                let result: Value = serde_json::from_str(line).expect("JSON");
                let faults: Vec<_> = validator.iter_errors(&result).map(|fault| fault.to_string()).collect();
                assert_eq!(faults, Vec::<String>::new(), "{line}");
            }
        }
    });
}

#[test]
fn schemathesis_finds_no_answer_that_the_description_does_not_allow() {
    kit::run_within(libraries::LIMIT, async |ctx| {
        libraries::install(&ctx, "schemathesis").await;
        let clients = shop();
        let front = front(ctx, &clients).await;
        let address = format!("http://{}", front.gateway.address);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
        let authorization = format!("Authorization: Bearer {TOKEN}");
        let program = Program::new(folder.join(".venv/bin/st"))
            .args(["run", "--header", &authorization, "--url", &address])
            .arg(format!("{address}/openapi.json"))
            .directory(folder);
        let run = front.world.ctx.start(&program);
        let status = run.wait_exit(libraries::LIMIT).await;
        let said = [run.stdout(), run.stderr()].concat().join("\n");
        assert!(status.success(), "{said}");
        println!("{said}");
        let log = front.gateway.process.stderr().join("\n");
        assert!(!log.contains("panic"), "{log}");
    });
}
