//! What the gateway takes, and what it refuses as the worker would.

use kit::Answer;

use super::world::{Front, Gateway, json, problem};
use crate::{
    console::http::Request,
    world::{REQUESTS, World},
};

#[test]
fn a_request_is_published_and_its_outcome_names_the_client() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let answer = front.unlock(r#"{"customer_id":191}"#).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        assert_eq!(answer.json(), serde_json::json!({"id": id, "status": "accepted"}));
        let location = &answer.headers["location"];
        assert!(
            location.starts_with(&format!("/v1/unlocks/{}?since=20", id.replace('/', "%2F"))),
            "{location}"
        );
        let outcome = front.world.outcome().await;
        assert_eq!((&outcome["request_id"], &outcome["requested_by"]), (&id.into(), &"local".into()));
        assert_eq!(
            (&outcome["status"], &outcome["request"]["customer_id"]),
            (&"unlocked".into(), &"191".into())
        );
    });
}

#[test]
fn every_form_of_a_request_is_taken_as_over_rabbitmq() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let post = || Request::new("POST", "/v1/unlocks");
        let event = r#"{"specversion":"1.0","id":"e-1","type":"t","source":"s","data":{"customer_id":3}}"#;
        let requests = [
            post().body("application/json; charset=utf-8", r#"{"customer_id":1}"#),
            post().body("application/x-www-form-urlencoded", "customer_id=2"),
            post().body("application/cloudevents+json", event),
            post()
                .body("application/json", r#"{"customer_id":4}"#)
                .header("ce-id", "e-2")
                .header("ce-type", "t"),
            post().body("application/vnd.shop+json", r#"{"orderid":"5"}"#),
        ];
        for request in requests {
            let answer = front.gateway.post(request.header("x-correlation-id", "corr")).await;
            assert_eq!(answer.status, 202, "{answer:?}");
        }
        for outcome in front.world.outcomes.wait_count(5, crate::world::SOON).await {
            assert_eq!(outcome.json()["status"], "unlocked", "{}", outcome.text());
            let correlation_id = outcome.properties.correlation_id().as_ref().map(|id| id.to_string());
            assert_eq!(correlation_id.as_deref(), Some("corr"));
        }
    });
}

#[test]
fn what_would_end_invalid_is_refused_and_never_published() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.stop().await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[]).await;
        let long = format!(r#"{{"customer_id":"{}"}}"#, "9".repeat(256));
        let large = format!(r#"{{"customer_id":1,"x":"{}"}}"#, "x".repeat(64 * 1024));
        for (content_type, body, status, code) in [
            ("application/json", "no JSON", 400, "malformed"),
            ("application/json", "[]", 400, "malformed"),
            ("application/json", r#"{"customer_id":1,"customer_id":2}"#, 400, "malformed"),
            ("application/json", r#"{"customer_id":1,"expires_at":"soon"}"#, 400, "malformed"),
            ("application/json", r#"{"customer_id":""}"#, 422, "no_identifier"),
            ("application/json", &long, 422, "bad_identifier"),
            ("application/json", &large, 413, "too_large"),
            ("application/xml", "<customer/>", 415, "unsupported_content_type"),
            ("application/x-ndjson", "\n \n", 400, "malformed"),
        ] {
            let answer = gateway.post(Request::new("POST", "/v1/unlocks").body(content_type, body)).await;
            let (is_status, is_code, taken) = problem(&answer);
            assert_eq!((is_status, is_code.as_str(), taken), (status, code, None), "{body:.80}");
            assert_eq!(answer.headers.contains_key("accept-post"), status == 415);
        }
        let packed =
            Request::new("POST", "/v1/unlocks").body("application/x-ndjson", "{\"customer_id\":1}\n");
        let answer = gateway.post(packed.header("content-encoding", "gzip")).await;
        assert_eq!(problem(&answer), (415, "unsupported_content_type".to_owned(), None));
        assert!(answer.headers.contains_key("accept-post"));
        let answer = gateway.post(json(r#"{"customer_id":1.5,"orderid":true}"#)).await;
        let pointers: Vec<_> = answer.json()["errors"].as_array().expect("errors").clone();
        let pointers: Vec<_> =
            pointers.iter().map(|error| error["pointer"].as_str().expect("a pointer")).collect();
        assert_eq!(pointers, ["/customer_id", "/orderid"]);
        assert_eq!(world.amqp.ready_count(REQUESTS).await, 0, "something was published");
    });
}

#[test]
fn methods_and_paths_that_do_not_exist_are_named() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[]).await;
        for (method, path, status, code, allow) in [
            ("GET", "/v1/unlocks", 405, "method_not_allowed", Some("POST")),
            ("OPTIONS", "/v1/unlocks", 405, "method_not_allowed", Some("POST")),
            ("TRACE", "/v1/unlocks", 405, "method_not_allowed", Some("POST")),
            ("MADEUP", "/v1/unlocks", 405, "method_not_allowed", Some("POST")),
            ("POST", "/v1/unlocks/a", 405, "method_not_allowed", Some("GET, HEAD")),
            ("OPTIONS", "*", 404, "not_found", None),
            ("GET", "/v1/unlocks/", 404, "not_found", None),
            ("GET", "/v1/unlocks/%FF%00", 404, "history_off", None),
            ("GET", "/../v1/unlocks", 404, "not_found", None),
            ("DELETE", "/v1/unlocks/a%2Fb", 405, "method_not_allowed", Some("GET, HEAD")),
            ("GET", "/v1/unlocks/local%2Fa", 404, "history_off", None),
            ("GET", "/v1/unlocks/local/a?since=2026-11-29T00:00:00Z", 404, "history_off", None),
            ("GET", "/", 404, "not_found", None),
            ("POST", "/v1/unlock", 404, "not_found", None),
        ] {
            let answer = gateway.post(Request::new(method, path)).await;
            let (is_status, is_code, _) = problem(&answer);
            assert_eq!((is_status, is_code.as_str()), (status, code), "{method} {path}");
            assert_eq!(answer.headers.get("allow").map(String::as_str), allow, "{method} {path}");
        }
        // An answer to HEAD has no body.
        for (path, status) in [("/v1/unlocks", 405), ("/v1/unlocks/a", 404), ("/", 404)] {
            let answer = gateway.post(Request::new("HEAD", path)).await;
            assert_eq!((answer.status, answer.body.as_str()), (status, ""), "HEAD {path}");
            assert_eq!(answer.headers["content-type"], "application/problem+json");
        }
    });
}

#[test]
fn the_gateway_needs_no_settings_of_trackfinity_and_does_not_read_them() {
    kit::run(async |ctx| {
        let settings = [("TRACKFINITY__API_KEY_FILE", "/nowhere/key"), ("WORKER__CONCURRENCY", "wrong")];
        let gateway = Gateway::begin(&ctx, ctx.amqp_url(), &settings).await;
        gateway.wait_ready(200).await;
    });
}

#[test]
fn attributes_that_need_larger_frames_are_taken_and_cost_no_neighbour() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let large = || {
            let request = json(r#"{"customer_id":1}"#).header("ce-id", "e-1");
            request.header("ce-x", &"x".repeat(7 * 1024)).header("ce-y", &"y".repeat(7 * 1024 + 512))
        };
        let small = futures_util::future::join_all((0..20).map(|_| front.unlock(r#"{"customer_id":2}"#)));
        let (first, small) = tokio::join!(front.gateway.post(large()), small);
        assert_eq!(first.status, 202, "{first:?}");
        assert!(small.iter().all(|answer| answer.status == 202), "{small:#?}");
        assert_eq!(front.gateway.post(large()).await.status, 202);
        front.world.outcomes.wait_count(22, crate::world::SOON).await;
    });
}
