//! The console's OpenAPI document: as it is kept in docs, and as schemathesis tries it.

use std::path::Path;

use super::*;
use crate::libraries;

#[test]
fn the_description_of_the_api_is_the_one_in_the_documents() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let made = trackfinity_unlocker::console::openapi().expect("a document");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &made).expect("the document is written");
    }
    let kept = std::fs::read_to_string(path).expect("docs/openapi.json");
    assert!(
        kept == made,
        "docs/openapi.json is out of step: UPDATE_DOCS=1 cargo test --test it console::openapi writes it"
    );
    let document: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(document["paths"].as_object().map(serde_json::Map::len), Some(13));
}

#[test]
fn schemathesis_finds_no_answer_that_the_description_does_not_allow() {
    kit::run_within(libraries::LIMIT, async |ctx| {
        libraries::install(&ctx, "schemathesis").await;
        let page = Page::start_with_history(ctx, &[]).await;
        page.publish_dead_letters(3).await;
        let address = format!("http://{}/api/v1", page.address);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
        let authorization = format!("Authorization: Bearer {OPERATOR}");
        let program = Program::new(folder.join(".venv/bin/st"))
            .args(["run", "--header", &authorization, "--url", &address])
            .arg(format!("{address}/openapi.json"))
            .directory(folder.join("console"));
        let run = page.world.ctx.start(&program);
        let status = run.wait_exit(libraries::LIMIT).await;
        let said = [run.stdout(), run.stderr()].concat().join("\n");
        assert!(status.success(), "{said}");
        println!("{said}");
        let log = page.console.process.stderr().join("\n");
        assert!(!log.contains("panic"), "{log}");
    });
}
