//! Batches: one request a line.

use kit::Answer;
use serde_json::Value;

use super::{
    connection::{Connection, request},
    world::{Front, Gateway, problem},
};
use crate::{
    console::http::{Request, Response},
    world::World,
};

fn batch(lines: &str) -> Request {
    Request::new("POST", "/v1/unlocks").body("application/x-ndjson", lines)
}

fn results(answer: &Response) -> Vec<Value> {
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/x-ndjson"));
    answer.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn every_line_has_a_result_in_order_and_a_bad_one_costs_no_other() {
    kit::run(async |ctx| {
        let front = Front::start_with(ctx, &[], |call| match call.field("customer_id").as_deref() {
            Some("404") => Answer::status(400),
            _ => Answer::unlocked(),
        })
        .await;
        let lines = "{\"customer_id\":1}\r\n\n{\"customer_id\":\"\"}\nx\n{\"customer_id\":404}";
        let request = || batch(lines).header("idempotency-key", "k").header("prefer", "wait=20");
        let results = results(&front.gateway.post(request()).await);
        let short: Vec<_> = results
            .iter()
            .map(|result| {
                (result["line"].as_u64().expect("a line"), result["status"].as_str().expect("a status"))
            })
            .collect();
        assert_eq!(short, [(1, "finished"), (3, "rejected"), (4, "rejected"), (5, "finished")]);
        assert_eq!(
            (&results[0]["id"], &results[0]["outcome"]["status"]),
            (&"local/k/1".into(), &"unlocked".into())
        );
        assert_eq!(results[1]["problem"]["code"], "no_identifier");
        assert_eq!(results[2]["problem"]["code"], "malformed");
        assert_eq!(results[3]["outcome"]["reason"], "http_400");
        let calls = front.world.trackfinity.count();
        assert_eq!(self::results(&front.gateway.post(request()).await), results, "a repeat");
        assert_eq!(front.world.trackfinity.count(), calls);
    });
}

#[test]
fn a_thousand_lines_are_taken_and_one_more_is_too_many() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let lines =
            |count: usize| (0..count).map(|n| format!("{{\"customer_id\":{n}}}\n")).collect::<String>();
        let results = results(&front.gateway.post(batch(&lines(1000)).header("prefer", "wait=30")).await);
        assert_eq!(results.len(), 1000);
        for (n, result) in results.iter().enumerate() {
            assert_eq!(result["outcome"]["request"]["customer_id"], n.to_string(), "{result}");
        }
        assert_eq!(problem(&front.gateway.post(batch(&lines(1001))).await).1, "too_large");
    });
}

#[test]
fn a_batch_is_answered_within_its_time_while_nothing_is_confirmed() {
    kit::run(async |ctx| {
        let (line, url) = ctx.cutter().await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let gateway = Gateway::start(&world.ctx, &url, &[]).await;
        line.half_open();
        let lines: String = (0..1000).map(|n| format!("{{\"customer_id\":{n}}}\n")).collect();
        let mut client = Connection::open(&gateway.address).await;
        let begun = std::time::Instant::now();
        let request = request("", &lines).replace("application/json", "application/x-ndjson");
        let (status, body) = client.send(&request).await.expect("an answer");
        assert_eq!(status, 200, "{body}");
        let results: Vec<Value> =
            body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(results.len(), 1000);
        for result in results {
            let problem = &result["problem"];
            assert!(problem["status"] == 503 && problem["taken"] == "no", "{result}");
        }
        assert!(begun.elapsed().as_secs() < 45, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_batch_passes_the_rate_as_a_whole_or_not_at_all() {
    kit::run_within(std::time::Duration::from_secs(90), async |ctx| {
        let world = crate::world::World::start(ctx, |_| Answer::unlocked()).await;
        let directory = tempfile::tempdir().expect("a directory");
        let token = "0123456789abcdef0123456789abcdef";
        std::fs::write(directory.path().join("shop"), format!("{token}\n# rate=2\n")).expect("written");
        let path = directory.path().to_str().expect("UTF-8");
        let settings = [("GATEWAY__CLIENTS_DIR", path)];
        let gateway = super::world::Gateway::start(&world.ctx, world.ctx.amqp_url(), &settings).await;
        let post = async || {
            let lines = "{\"customer_id\":191}\n".repeat(6);
            let request = batch(&lines).header("authorization", &format!("Bearer {token}"));
            gateway.post(request.header("idempotency-key", "k")).await
        };
        let taken = results(&post().await);
        assert!(taken.iter().all(|result| result["status"] == "accepted"), "{taken:#?}");
        let again = post().await;
        let (status, code, is_taken) = problem(&again);
        assert_eq!((status, code.as_str(), is_taken.as_deref()), (429, "rate_limited", Some("no")));
        let seconds: u64 = again.headers["retry-after"].parse().expect("a number");
        assert!((1..=3).contains(&seconds), "{seconds}");
        let repeat = kit::eventually("the rate allows it again", crate::world::SOON, async || {
            let answer = post().await;
            if answer.status == 200 { Ok(answer) } else { Err(answer.status) }
        });
        assert_eq!(results(&repeat.await), taken, "the same requests");
    });
}
