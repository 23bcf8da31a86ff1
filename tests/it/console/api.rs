//! The JSON API, as a script uses it.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::*;

#[test]
fn a_script_makes_a_plan_executes_it_and_reads_each_result() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(4).await;
        let summary = page.api("GET", "/api/v1/summary", VIEWER, None).await.json();
        assert_eq!((&summary["count"], summary["groups"].as_array().map(Vec::len)), (&json!(4), Some(2)));
        assert_eq!(summary["oldest"], "2026-11-01T09:00:00.000Z");
        let list = page
            .api("GET", "/api/v1/dead-letters?status=refused&limit=2&offset=1", VIEWER, None)
            .await
            .json();
        assert_eq!((&list["count"], list["dead_letters"].as_array().map(Vec::len)), (&json!(3), Some(2)));
        assert_eq!(list["dead_letters"][0]["request_id"], "r-1");
        let queues = page.api("GET", "/api/v1/queues", VIEWER, None).await.json();
        assert_eq!((&queues["workers_consuming"], &queues["dead_letters_waiting"]), (&json!(1), &json!(4)));
        assert_eq!(queues["retries_waiting"][0], json!({"tier": "1s", "count": 0}));

        let request = json!({"action": "replay", "filter": {"status": ["refused"], "limit": 2}});
        let planned = page.api("POST", "/api/v1/plans", OPERATOR, Some(request)).await;
        assert_eq!(planned.status, 201, "{}", planned.body);
        let plan = planned.json();
        let digest = plan["digest"].as_str().expect("a digest");
        assert_eq!(
            (plan["ids"].as_array().map(Vec::len), &plan["dead_letters"][1]["request_id"]),
            (Some(2), &json!("r-1"))
        );
        let again = page.api("GET", &format!("/api/v1/plans/{digest}"), VIEWER, None).await.json();
        assert_eq!(again["ids"], plan["ids"]);

        let begin = Request::new("POST", &format!("/api/v1/plans/{digest}/jobs"))
            .header("authorization", &format!("Bearer {OPERATOR}"))
            .header("x-actor", "nightly")
            .json(&json!({"per_second": 100}));
        let begun = begin.send(&page.address).await;
        assert_eq!(begun.status, 202, "{}", begun.body);
        let path = format!("/api/v1/jobs/{}", begun.json()["id"].as_str().expect("an id"));
        let ended = async || {
            let job = page.api("GET", &path, VIEWER, None).await.json();
            if job["state"] == "finished" { Ok(job) } else { Err(job) }
        };
        let job = kit::eventually("the job's end", SOON, ended).await;
        assert_eq!(
            job["finish"],
            json!({
                "results": {
                    "unlocked": 2, "failed_again": {}, "pending": 0, "discarded": 0, "gone": 0,
                    "out_of_reach": 0, "publish_failed": 0
                },
                "remaining": 0, "total": 2, "ended": "complete"
            })
        );
        assert!(
            job["steps"]
                .as_array()
                .is_some_and(|steps| steps.iter().all(|step| step["result"] == "unlocked"))
        );
        assert!(
            page.audit().iter().all(|line| line["actor"] == "nightly (operator)" && line["via"] == "api")
        );
    });
}

#[test]
fn a_browse_stops_soon_after_its_client_has_gone() {
    kit::run(async |ctx| {
        let (line, url) = ctx.cutter().await;
        let tokens = [("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR)];
        let page = Page::start_with(ctx, &[&tokens[..], &[("BROKER__URL", &url)]].concat()).await;
        page.publish_dead_letters(3).await;
        // While another one has the lock, a browse waits for it for twenty seconds.
        let lock = format!("{DEAD}.lock");
        let channel = page.world.amqp.channel().await;
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        channel.queue_declare(lock.as_str().into(), exclusive, FieldTable::default()).await.expect("a lock");
        // Consoles follow each other.
        kit::eventually("the console has connected", SOON, async || line.open() == 1).await;
        let mut client = TcpStream::connect(&page.address).await.expect("a connection");
        let request = format!(
            "GET /api/v1/summary HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {VIEWER}\r\n\r\n",
            page.address
        );
        client.write_all(request.as_bytes()).await.expect("a request is sent");
        kit::eventually("the browse has connected", SOON, async || line.open() == 4).await;
        drop(client);
        kit::eventually("it has stopped", Duration::from_secs(8), async || line.open() == 1).await;
        channel.queue_delete(lock.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
        let summary = page.api("GET", "/api/v1/summary", VIEWER, None).await;
        assert_eq!((summary.status, &summary.json()["coverage"]["seen"]), (200, &json!(3)));
    });
}

#[test]
fn problems_are_json_as_rfc_9457_describes_it() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let request = |filter: Value| json!({"action": "replay", "filter": filter});
        let discard = json!({"action": "discard", "filter": {"ids": ["r-0"]}});
        for (path, body, status, code, pointer) in [
            ("/api/v1/plans", request(json!({})), 400, "bad_request", Some("/filter")),
            (
                "/api/v1/plans",
                request(json!({"status": ["refused", "dead"]})),
                400,
                "bad_request",
                Some("/filter/status/1"),
            ),
            ("/api/v1/plans", request(json!({"since": "soon"})), 400, "bad_request", Some("/filter/since")),
            ("/api/v1/plans", request(json!({"limit": 0})), 400, "bad_request", Some("/filter/limit")),
            ("/api/v1/plans", request(json!({"limit": "two"})), 422, "bad_request", Some("/filter/limit")),
            ("/api/v1/plans", request(json!({"ids": ["r-0", 1]})), 422, "bad_request", Some("/filter/ids/1")),
            ("/api/v1/plans", request(json!({"colour": "red"})), 422, "bad_request", Some("/filter/colour")),
            ("/api/v1/plans", json!({"action": "replay"}), 422, "bad_request", Some("")),
            ("/api/v1/plans", request(json!({"ids": ["r-0"]})), 404, "not_found", None),
            ("/api/v1/plans", discard, 400, "bad_request", Some("/reason")),
            ("/api/v1/plans/0123456789ab/jobs", json!({}), 404, "no_plan", None),
            (
                "/api/v1/plans/0123456789ab/jobs",
                json!({"per_second": 0}),
                400,
                "bad_request",
                Some("/per_second"),
            ),
            ("/api/v1/jobs/x/stop", json!({}), 404, "not_found", None),
            ("/api/v1/nowhere", json!({}), 404, "not_found", None),
            ("/api/v1/dead-letters", json!({}), 405, "method_not_allowed", None),
        ] {
            let response = page.api("POST", path, OPERATOR, Some(body)).await;
            assert_eq!(response.headers["content-type"], "application/problem+json", "{path}");
            let problem = response.json();
            assert_eq!((response.status, problem["code"].as_str()), (status, Some(code)), "{path} {problem}");
            assert_eq!(
                (&problem["status"], problem["title"].is_string()),
                (&json!(status), true),
                "{problem}"
            );
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.ends_with('.')), "{problem}");
            assert_eq!(problem["errors"][0]["pointer"].as_str(), pointer, "{path} {problem}");
        }
        let unauthorized = page.api("GET", "/api/v1/summary", "guess", None).await;
        assert_eq!((unauthorized.status, unauthorized.headers["www-authenticate"].as_str()), (401, "Bearer"));
        let not_json = Request::new("POST", "/api/v1/plans")
            .header("authorization", &format!("Bearer {OPERATOR}"))
            .send(&page.address)
            .await;
        assert_eq!((not_json.status, not_json.json()["code"].as_str()), (415, Some("bad_request")));
        for path in
            ["/api/v1/dead-letters?limit=0", "/api/v1/dead-letters?since=soon", "/api/v1/summary?status=dead"]
        {
            assert_eq!(page.api("GET", path, VIEWER, None).await.status, 400, "{path}");
        }
        // A session's cookie opens nothing here, and another site's script nothing either.
        let browser = page.logged_in(OPERATOR).await;
        let response = Request::new("GET", "/api/v1/summary")
            .header("cookie", &browser.cookie())
            .send(&page.address)
            .await;
        assert_eq!(response.status, 401);
        let forged = Request::new("POST", "/api/v1/plans")
            .header("authorization", &format!("Bearer {OPERATOR}"))
            .header("origin", "https://evil.example")
            .json(&request(json!({"ids": ["r-0"]})));
        let response = forged.send(&page.address).await;
        assert_eq!((response.status, response.json()["code"].as_str()), (403, Some("cross_site")));
    });
}
