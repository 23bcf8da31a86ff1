//! Who may do what, by which token.

use super::*;

#[test]
fn without_tokens_one_may_read_and_nothing_else() {
    kit::run(async |ctx| {
        let page = Page::start_with(ctx, &[]).await;
        page.publish_dead_letters(2).await;
        for path in
            ["/", "/dead-letters", "/jobs", "/api/v1/summary", "/api/v1/dead-letters", "/api/v1/queues"]
        {
            assert_eq!(page.get(path).await.status, 200, "{path}");
        }
        let dead_letter = page.get("/dead-letters/r-0").await;
        assert_eq!(dead_letter.status, 200);
        let (_, main) = dead_letter.body.split_once("<main").expect("the content");
        assert!(!main.contains("<button"), "there is nothing to press: {main}");

        let browser = Browser::new(&page.address);
        let request = serde_json::json!({"action": "replay", "filter": {"ids": ["r-0"]}});
        for request in [
            browser.form("/plans", &[("action", "replay"), ("dead_letter", "r-0")]),
            browser.form("/dead-letters/r-0/show", &[]),
            browser.form("/jobs/x/stop", &[]),
            browser.form("/plans/0123456789ab", &[]),
            Request::new("POST", "/api/v1/plans").json(&request),
            Request::new("GET", "/api/v1/dead-letters/r-0"),
        ] {
            let response = request.send(&page.address).await;
            assert!(matches!(response.status, 401 | 403), "{} {}", response.status, response.body);
        }
        let mut browser = Browser::new(&page.address);
        assert_eq!(browser.log_in("Anna", "").await.status, 401, "no token is no token");
        assert_eq!(page.audit(), Vec::<Value>::new());
        page.world.stop().await;
    });
}

#[test]
fn with_tokens_a_stranger_sees_nothing_but_the_login() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(1).await;
        for path in ["/", "/dead-letters?status=refused", "/dead-letters/r-0", "/jobs", "/plans/0123456789ab"]
        {
            let response = page.get(path).await;
            assert_eq!(response.status, 303, "{path}");
            assert!(response.location().starts_with("/login?to=%2F"), "{}", response.location());
        }
        for path in ["/api/v1/summary", "/api/v1/dead-letters", "/api/v1/queues", "/api/v1/jobs"] {
            let response = page.get(path).await;
            assert_eq!(
                (response.status, response.json()["code"].as_str()),
                (401, Some("unauthorized")),
                "{path}"
            );
            assert_eq!(response.headers["www-authenticate"], "Bearer");
        }
        assert_eq!(page.get("/login").await.status, 200);
        assert_eq!(page.get("/style.css").await.headers["content-type"], "text/css; charset=utf-8");
    });
}

#[test]
fn a_viewer_reads_and_an_operator_changes() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(1).await;
        let mut viewer = page.logged_in(VIEWER).await;
        let list = viewer.get("/dead-letters").await;
        assert!(list.body.contains("Anna (viewer)") && !list.body.contains("name=\"action\""));
        for (path, fields) in [
            ("/plans", &[("action", "replay"), ("dead_letter", "r-0")][..]),
            ("/dead-letters/r-0/show", &[]),
            ("/plans/0123456789ab", &[]),
            ("/jobs/x/stop", &[]),
        ] {
            let response = viewer.post(path, fields).await;
            assert_eq!(response.status, 403, "{path}");
            assert!(response.body.contains("Only operators"), "{}", response.body);
        }
        let request = serde_json::json!({"action": "replay", "filter": {"ids": ["r-0"]}});
        let planned = page.api("POST", "/api/v1/plans", VIEWER, Some(request)).await;
        let shown = page.api("GET", "/api/v1/dead-letters/r-0", VIEWER, None).await;
        assert_eq!((planned.status, shown.status), (403, 403));
        assert_eq!(page.audit(), Vec::<Value>::new());

        let mut operator = page.logged_in(OPERATOR).await;
        assert!(operator.get("/dead-letters").await.body.contains("name=\"action\""));
        assert_eq!(
            operator.post("/plans", &[("action", "replay"), ("dead_letter", "r-0")]).await.status,
            303
        );
    });
}

#[test]
fn wrong_tokens_are_reported_and_after_five_one_must_wait() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let mut browser = Browser::new(&page.address);
        for _ in 0..4 {
            let response = browser.log_in("Anna", "guess").await;
            assert_eq!(response.status, 401);
            assert!(response.body.contains("neither the viewer") && !response.body.contains("guess"));
        }
        // Guesses at the API count, too.
        assert_eq!(page.api("GET", "/api/v1/summary", "guess", None).await.status, 401);
        let response = browser.log_in("Anna", OPERATOR).await;
        assert_eq!(response.status, 429);
        assert!(response.body.contains("too many wrong tokens; try again in"), "{}", response.body);
        assert!(
            response.headers["retry-after"].parse::<u64>().is_ok_and(|seconds| (1..=60).contains(&seconds))
        );
        let response = page.api("GET", "/api/v1/summary", OPERATOR, None).await;
        assert_eq!((response.status, response.json()["code"].as_str()), (429, Some("too_many_attempts")));
    });
}

#[test]
fn a_session_ends_with_the_logout_and_with_its_token() {
    kit::run(async |ctx| {
        let file = std::env::temp_dir().join(format!("unlocker-token-{}", uuid::Uuid::now_v7()));
        std::fs::write(&file, OPERATOR).expect("a file");
        let path = file.to_str().expect("a path");
        let page = Page::start_with(
            ctx,
            &[("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN_FILE", path)],
        )
        .await;
        let mut first = page.logged_in(OPERATOR).await;
        let response = first.post("/logout", &[]).await;
        assert_eq!((response.status, response.location()), (303, "/login"));
        assert!(response.cookies[0].contains("Max-Age=0"));
        let mut second = page.logged_in(OPERATOR).await;
        let mut viewer = page.logged_in(VIEWER).await;
        let old = second.cookie();
        assert_eq!(second.post("/logout", &[]).await.status, 303);
        let replayed = Request::new("GET", "/").header("cookie", &old).send(&page.address).await;
        assert_eq!(replayed.status, 303, "the cookie is worth nothing any more");

        let mut third = page.logged_in(OPERATOR).await;
        std::fs::write(&file, "another-operator-token").expect("a file");
        let thrown_out = async || third.get("/").await.status == 303;
        kit::eventually("the end of the session", SOON, thrown_out).await;
        assert_eq!(page.api("GET", "/api/v1/summary", OPERATOR, None).await.status, 401);
        assert_eq!(page.api("GET", "/api/v1/summary", "another-operator-token", None).await.status, 200);
        assert_eq!(viewer.get("/").await.status, 200, "the viewer's token is the same");
        page.logged_in("another-operator-token").await;
        std::fs::remove_file(file).expect("the file");
    });
}

#[test]
fn an_address_that_others_can_reach_needs_both_tokens() {
    kit::run(async |ctx| {
        for token in ["VIEWER", "OPERATOR"] {
            let console = Program::new(env!("CARGO_BIN_EXE_unlocker"))
                .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
                .env("UNLOCKER__CONSOLE__LISTEN", "0.0.0.0:0")
                .env(format!("UNLOCKER__CONSOLE__{token}_TOKEN"), OPERATOR)
                .arg("console");
            let console = ctx.start(&console);
            assert_eq!(console.wait_exit(SOON).await.code(), Some(78));
            assert!(console.stderr().iter().any(|line| line.contains("is required, because console.listen")));
        }
    });
}
