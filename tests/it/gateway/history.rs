//! Outcomes that are asked for later.

use kit::Answer;
use serde_json::Value;

use super::world::{Gateway, json, problem};
use crate::{
    console::http::{Request, Response},
    world::{SOON, World},
};

const ON: &[(&str, &str)] = &[("HISTORY__ENABLED", "true")];

async fn poll(gateway: &Gateway, location: &str) -> Value {
    let answer = gateway.post(Request::new("GET", location)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn finished(gateway: &Gateway, location: &str) -> Value {
    kit::eventually("the outcome", SOON, async || {
        let answer = poll(gateway, location).await;
        if answer["status"] == "pending" { Err(answer) } else { Ok(answer) }
    })
    .await
}

fn location(answer: &Response) -> &str {
    &answer.headers["location"]
}

#[test]
fn the_location_leads_to_the_outcome_and_to_pending_before() {
    kit::run(async |ctx| {
        let world = World::start_with(ctx, ON, |call| match call.field("customer_id").as_deref() {
            Some("404") => Answer::status(400),
            _ => Answer::unlocked(),
        })
        .await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), ON).await;
        let done = gateway.post(json(r#"{"customer_id":191}"#)).await;
        let outcome = world.outcomes.next(SOON).await.text();
        let answer = finished(&gateway, location(&done)).await;
        assert_eq!(answer, serde_json::from_str::<Value>(&outcome).expect("JSON"));
        let refused = gateway.post(json(r#"{"customer_id":404}"#)).await;
        assert_eq!(finished(&gateway, location(&refused)).await["reason"], "http_400");
        // The plain id without a time is searched in the whole stream.
        let plain = location(&done).split('?').next().expect("a path");
        assert_eq!(finished(&gateway, plain).await, answer);
        let slashes = plain.replace("%2F", "/");
        assert_eq!(finished(&gateway, &slashes).await, answer);
        // From before the reader began: it reaches back.
        let old = format!("{plain}?since=2020-01-01T00:00:00Z");
        assert_eq!(finished(&gateway, &old).await, answer);
        let never = "/v1/unlocks/local%2Fnever?since=2020-01-01T00:00:00Z";
        assert_eq!(poll(&gateway, never).await, serde_json::json!({"status": "pending"}));
        world.stop().await;
        let waiting = gateway.post(json(r#"{"customer_id":1}"#)).await;
        assert_eq!(poll(&gateway, location(&waiting)).await, serde_json::json!({"status": "pending"}));
        let wrong = gateway.post(Request::new("GET", "/v1/unlocks/local%2Fa?since=yesterday")).await;
        assert_eq!(problem(&wrong).1, "bad_parameter");
    });
}

#[test]
fn a_client_sees_its_own_requests_alone_also_after_the_connection_was_lost() {
    kit::run_on_own_node(kit::NodeOptions::default(), async |ctx| {
        let world = World::start_with(ctx, ON, |_| Answer::unlocked()).await;
        let directory = tempfile::tempdir().expect("a directory");
        let token = |name: &str| format!("{name}-0123456789abcdef0123456789abcdef");
        for name in ["shop", "shop2"] {
            std::fs::write(directory.path().join(name), token(name)).expect("written");
        }
        let path = directory.path().to_str().expect("UTF-8");
        let settings = [ON[0], ("GATEWAY__CLIENTS_DIR", path)];
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &settings).await;
        let as_client = |request: Request, name: &str| {
            request.header("authorization", &format!("Bearer {}", token(name)))
        };
        let taken = gateway.post(as_client(json(r#"{"customer_id":191}"#), "shop")).await;
        world.outcomes(1).await;
        let get =
            async |name: &str| gateway.post(as_client(Request::new("GET", location(&taken)), name)).await;
        kit::eventually("the outcome", SOON, async || {
            let answer = get("shop").await;
            if answer.body.contains("unlocked") { Ok(()) } else { Err(answer.body) }
        })
        .await;
        assert_eq!(problem(&get("shop2").await).0, 404);
        assert_eq!(problem(&gateway.post(Request::new("GET", location(&taken))).await).0, 401);
        world.ctx.node().close_all_connections().await;
        kit::eventually("the outcome", SOON, async || {
            let answer = get("shop").await;
            if answer.body.contains("unlocked") { Ok(()) } else { Err(answer.body) }
        })
        .await;
    });
}

#[test]
fn an_id_that_is_used_again_does_not_get_its_earlier_outcome() {
    kit::run(async |ctx| {
        let world = World::start_with(ctx, ON, |_| Answer::unlocked()).await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), ON).await;
        // Its key was used a day ago.
        let earlier = r#"{"status":"unlocked","request_id":"local/daily","request":{"customer_id":"191"},
            "finished_at":"2026-01-01T00:00:00Z"}"#;
        let properties = lapin::BasicProperties::default();
        world.amqp.publish(crate::world::RESULTS, "unlock.unlocked", properties, earlier.as_bytes()).await;
        world.stop().await;
        let taken = gateway.post(json(r#"{"customer_id":191}"#).header("idempotency-key", "daily")).await;
        assert_eq!(poll(&gateway, location(&taken)).await, serde_json::json!({"status": "pending"}));
        // Without a time it is the latest one.
        assert_eq!(poll(&gateway, "/v1/unlocks/local%2Fdaily").await["status"], "unlocked");
        assert_eq!(poll(&gateway, location(&taken)).await, serde_json::json!({"status": "pending"}));
        let offset = "/v1/unlocks/local%2Fdaily?since=2025-12-31T00:00:00+01:00";
        assert_eq!(poll(&gateway, offset).await["status"], "unlocked");
    });
}

#[test]
fn polls_do_not_wait_one_after_the_other_for_a_rabbitmq_that_hangs() {
    kit::run_on_own_node(kit::NodeOptions::default(), async |ctx| {
        let world = World::start_with(ctx, ON, |_| Answer::unlocked()).await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), ON).await;
        world.ctx.node().freeze().await;
        let started = std::time::Instant::now();
        let polls = (0..6).map(|n| {
            let path = format!("/v1/unlocks/local%2F{n}?since=2026-01-01T00:00:00Z");
            gateway.post(Request::new("GET", &path))
        });
        let answers = futures_util::future::join_all(polls).await;
        let took = started.elapsed();
        world.ctx.node().thaw().await;
        for answer in &answers {
            assert_eq!((answer.status, problem(answer).1.as_str()), (503, "history_unavailable"));
        }
        // A try takes 5 s.
        assert!(took < std::time::Duration::from_secs(12), "{took:?}");
    });
}
