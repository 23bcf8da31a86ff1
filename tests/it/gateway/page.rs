//! docs/http.md: what it shows is true.

use std::{collections::BTreeSet, fs, path::Path};

use kit::{Answer, Context, Program};
use serde_json::Value;

use super::{
    examples::with_client,
    world::{Front, json},
};
use crate::{
    console::http::Request,
    world::{SOON, World},
};

/// The page about the gateway.
pub(super) fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/http.md");
    fs::read_to_string(path).expect("docs/http.md")
}

/// The part of the page below a heading.
fn section(heading: &str) -> String {
    let page = text();
    let (_, below) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let marks = heading.chars().take_while(|character| *character == '#').count();
    let end = (1..=marks).filter_map(|marks| below.find(&format!("\n{} ", "#".repeat(marks)))).min();
    below[..end.unwrap_or(below.len())].to_owned()
}

/// The blocks of shell code in a text.
fn shell(text: &str) -> Vec<String> {
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().expect("its end").to_owned()).collect()
}

async fn sh(ctx: &Context, script: &str) -> String {
    let process = ctx.start(&Program::new("/bin/bash").args(["-c", script]));
    let status = process.wait_exit(SOON).await;
    assert!(status.success(), "{status}: {script}\n{:#?}", process.stderr());
    process.stdout().join("\n")
}

#[test]
fn the_first_unlock_is_as_the_page_shows_it() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let blocks = shell(&section("## Your first unlock in five minutes")).join("\n");
        let at = blocks.find("curl ").expect("a call of curl");
        let script = blocks[at..].replace("127.0.0.1:8080", &front.gateway.address);
        let printed = sh(&front.world.ctx, &format!("set -e\n{script}")).await;
        let outcome = printed.lines().find(|line| line.starts_with('{')).expect("an outcome");
        let outcome: Value = serde_json::from_str(outcome).expect("JSON");
        assert_eq!((&outcome["status"], &outcome["requested_by"]), (&"unlocked".into(), &"local".into()));
    });
}

#[test]
fn the_example_of_a_signature_is_right() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let (gateway, _directory) = with_client(&world).await;
        let section = section("### Sign a request");
        let script = shell(&section).into_iter().next().expect("a script");
        let (_, shown) = section.split_once("This prints `").expect("what it prints");
        let shown = shown.split('`').next().expect("its end");
        assert_eq!(sh(&world.ctx, &script).await, shown);

        // The same now, for the gateway.
        let line = |name: &str| {
            let mut lines = script.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            lines.next().unwrap_or_else(|| panic!("no {name}")).trim_matches('\'').to_owned()
        };
        let now = std::time::UNIX_EPOCH.elapsed().expect("a time").as_secs().to_string();
        let script = script.replace(&format!("timestamp={}", line("timestamp")), &format!("timestamp={now}"));
        let signature = sh(&world.ctx, &script).await;
        let request = |body: &str| {
            Request::new("POST", "/v1/unlocks")
                .body("application/json", body)
                .header("webhook-id", &line("id"))
                .header("webhook-timestamp", &now)
                .header("webhook-signature", &signature)
        };
        let answer = gateway.post(request(&line("body"))).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.json()["id"], format!("shop/{}", line("id")));
        assert_eq!(gateway.post(request(&(line("body") + " "))).await.status, 401, "another body");
    });
}

#[test]
fn no_other_origin_may_use_the_gateway_from_a_browser() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let preflight = Request::new("OPTIONS", "/v1/unlocks")
            .header("origin", "https://shop.example.com")
            .header("access-control-request-method", "POST");
        let preflight = front.gateway.post(preflight).await;
        assert_eq!(preflight.status, 405);
        let answer = front
            .gateway
            .post(json(r#"{"customer_id":1}"#).header("origin", "https://shop.example.com"))
            .await;
        for answer in [preflight, answer] {
            let mut names = answer.headers.keys();
            assert!(!names.any(|name| name.starts_with("access-control-")), "{answer:?}");
        }
    });
}

#[test]
fn a_second_queue_that_refuses_a_request_makes_the_answer_wrong() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let management = front.world.ctx.vhost().management();
        let policy = serde_json::json!({"max-length": 1, "overflow": "reject-publish"});
        management.set_policy("full", "^audit$", policy).await;
        front.world.amqp.declare_queue("audit", kit::FieldTable::default()).await;
        front.world.amqp.bind("audit", crate::world::EXCHANGE, crate::world::REQUEST).await;
        let sent = std::cell::Cell::new(0);
        let refused = kit::eventually("the second queue is full", SOON, async || {
            let answer = front.unlock(r#"{"customer_id":191}"#).await;
            sent.set(sent.get() + 1);
            if answer.status == 202 { Err("taken") } else { Ok(answer) }
        })
        .await;
        assert_eq!(super::world::problem(&refused), (503, "queue_full".to_owned(), Some("no".to_owned())));
        // The queue for requests has it all the same.
        front.world.outcomes.wait_count(sent.get(), SOON).await;
    });
}

#[test]
fn an_alternate_exchange_hides_that_no_queue_is_bound() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        front.world.amqp.declare_queue("other", kit::FieldTable::default()).await;
        front.world.amqp.bind("other", "amq.fanout", "").await;
        let management = front.world.ctx.vhost().management();
        let policy = serde_json::json!({
            "pattern": r"^trackfinity\.unlock$",
            "apply-to": "exchanges",
            "definition": {"alternate-exchange": "amq.fanout"},
        });
        let path = format!("/api/policies/{}/alternate", front.world.ctx.vhost().name());
        management.put(&path, policy).await.expect("a policy");
        management
            .delete_binding(crate::world::EXCHANGE, crate::world::REQUESTS, crate::world::REQUEST)
            .await;
        kit::eventually("RabbitMQ returns nothing", SOON, async || {
            let status = front.unlock(r#"{"customer_id":191}"#).await.status;
            if status == 202 { Ok(()) } else { Err(status) }
        })
        .await;
        assert!(front.world.outcomes.is_empty() && front.world.amqp.ready_count("other").await > 0);
    });
}

/// The codes of problems in a source: behind a status, or in a function `code`.
fn codes(source: &str) -> BTreeSet<String> {
    let quoted = |text: &str| text.split('"').nth(1).map(str::to_owned);
    let behind_status = source.split("Problem::new(").skip(1).filter_map(|after| {
        let call = after.split(')').next().unwrap_or_default();
        quoted(call)
    });
    let function = source.split("fn code(&self)").nth(1).and_then(|after| after.split("\n    }\n").next());
    let arms = function.unwrap_or_default().split("=> ").skip(1).filter_map(quoted);
    let codes: BTreeSet<String> = behind_status.chain(arms).collect();
    let is_code = |code: &String| code.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    codes.into_iter().filter(is_code).collect()
}

#[test]
fn the_page_lists_every_code_of_a_problem() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway");
    let files = fs::read_dir(source).expect("src/gateway").map(|entry| entry.expect("an entry").path());
    let files = files.filter(|path| path.is_file());
    let codes: BTreeSet<String> =
        files.flat_map(|path| codes(&fs::read_to_string(path).expect("a source"))).collect();
    assert!(codes.len() > 20, "{codes:?}");
    let table = section("## Answers");
    let missing: Vec<_> = codes.iter().filter(|code| !table.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "not in docs/http.md: {missing:?}");
}
