//! What is masked, and what is audited when it is shown.

use super::*;

#[test]
fn identifiers_bodies_and_answers_are_masked_until_an_operator_asks() {
    kit::run(async |ctx| {
        let page = Page::start_with(
            ctx,
            &[
                ("CONSOLE__OPERATOR_TOKEN", OPERATOR),
                ("CONSOLE__TRACE_URL", "https://traces.example.com/trace/{trace_id}"),
            ],
        )
        .await;
        page.publish_dead_letters(3).await;
        let mut operator = page.logged_in(OPERATOR).await;
        let plan = operator.post("/plans", &[("action", "replay"), ("dead_letter", "r-0")]).await;
        for path in ["/", "/dead-letters", "/dead-letters/r-0", plan.location()] {
            let response = operator.get(path).await;
            assert_eq!(response.status, 200);
            for secret in SECRETS {
                assert!(!response.body.contains(secret), "{path} shows {secret}: {}", response.body);
            }
        }
        for path in ["/api/v1/summary", "/api/v1/dead-letters"] {
            let response = page.api("GET", path, OPERATOR, None).await;
            assert!(SECRETS.iter().all(|secret| !response.body.contains(secret)), "{}", response.body);
        }
        assert_eq!(page.audit(), Vec::<Value>::new(), "reading masked data is not audited");

        let dead_letter = operator.get("/dead-letters/r-0").await;
        let link = "https://traces.example.com/trace/4bf92f3577b34da6a3ce929d0e0e4736";
        assert!(dead_letter.body.contains(&format!("href=\"{link}\"")), "{}", dead_letter.body);
        let shown = operator.post("/dead-letters/r-0/show", &[]).await;
        assert_eq!(shown.status, 200);
        for part in ["customer_id", "c-0", "no such customer", "their-header", "&#60;script&#62;alert(1)"] {
            assert!(shown.body.contains(part), "{part}: {}", shown.body);
        }
        assert!(!shown.body.contains("<script"), "nothing in a dead letter is markup");
        let audit = page.audit();
        assert_eq!(audit.len(), 1);
        for (name, value) in [("event", "show"), ("id", "r-0"), ("actor", "Anna (operator)"), ("via", "page")]
        {
            assert_eq!(audit[0][name], value);
        }
        let body = page.api("GET", "/api/v1/dead-letters/r-0", OPERATOR, None).await.json();
        assert!(body["dead_letters"][0]["body"].as_str().is_some_and(|body| body.contains("c-0")));
        assert_eq!((&page.audit()[1]["via"], page.audit().len()), (&"api".into(), 2));
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 3);
    });
}

#[test]
fn what_cannot_be_audited_is_not_done() {
    kit::run(async |ctx| {
        let page = Page::start_with(
            ctx,
            &[("CONSOLE__OPERATOR_TOKEN", OPERATOR), ("CONSOLE__AUDIT_LOG", "/proc/no-such-file")],
        )
        .await;
        page.publish_dead_letters(1).await;
        let mut operator = page.logged_in(OPERATOR).await;
        let shown = operator.post("/dead-letters/r-0/show", &[]).await;
        assert_eq!(shown.status, 503);
        assert!(shown.body.contains("audit log cannot be written") && !shown.body.contains("c-0"));
        let api = page.api("GET", "/api/v1/dead-letters/r-0", OPERATOR, None).await;
        assert_eq!((api.status, api.json()["code"].as_str()), (503, Some("audit_log")));

        let planned = operator.post("/plans", &[("action", "replay"), ("dead_letter", "r-0")]).await;
        let job = operator.post(planned.location(), &[]).await;
        let path = job.location().to_owned();
        let failed = async || operator.get(&path).await.body.contains("audit log cannot be written");
        kit::eventually("the job's end", SOON, failed).await;
        assert_eq!((page.world.amqp.ready_count(DEAD).await, page.world.trackfinity.count()), (1, 0));
    });
}

#[test]
fn the_list_is_filtered_by_its_address_and_paged() {
    kit::run(async |ctx| {
        let page = Page::start_with(ctx, &[]).await;
        page.publish_dead_letters(120).await;
        let rows = |response: &Response| response.body.matches("href=\"/dead-letters/").count();
        let list = page.get("/dead-letters").await;
        assert_eq!(rows(&list), 50);
        assert!(list.body.contains("1 to 50 of 120"), "{}", list.body);
        let last = page.get("/dead-letters?page=3").await;
        assert_eq!(rows(&last), 20);
        assert!(last.body.contains("101 to 120 of 120") && last.body.contains("page=2"));
        let some = page.get("/dead-letters?status=abandoned&reason=timeout&until=2026-11-01T09:00:59Z").await;
        assert!(some.body.contains("1 to 20 of 20"), "{}", some.body);
        let one = page.get("/dead-letters?id=r-7").await;
        assert_eq!(rows(&one), 1);
        let none = page.get("/dead-letters?reason=%22%3E%3Cscript%3Ex").await;
        assert!(none.body.contains("No dead letter matches") && !none.body.contains("<script"));
        let wrong = page.get("/dead-letters?since=soon").await;
        assert_eq!(wrong.status, 400);
        assert!(wrong.body.contains("neither a time such as"), "{}", wrong.body);
        let summary = page.get("/").await;
        assert!(
            summary.body.contains("/dead-letters?status=refused&#38;reason=http_404"),
            "{}",
            summary.body
        );
    });
}
