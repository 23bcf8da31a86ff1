//! The overview.

use super::*;

#[test]
fn outcomes_are_drawn_by_status_and_listed_for_those_who_do_not_see_it() {
    kit::run(async |ctx| {
        let page =
            Page::start_with_history(ctx, &[("CONSOLE__METRICS_URL", "https://grafana.example.com/d/x")])
                .await;
        for n in 0..5 {
            page.world.unlock(&format!("c-{n}")).await;
        }
        page.world.unlock("no").await;
        page.world.outcomes(6).await;
        let mut anna = page.logged_in(VIEWER).await;
        let counted = async || {
            let overview = anna.get("/?window=hour").await.body;
            if overview.contains("Outcomes of the last hour: 1 refused, 5 unlocked") {
                Ok(overview)
            } else {
                Err(overview)
            }
        };
        let overview = kit::eventually("the outcomes", SOON, counted).await;
        for part in [
            "<rect class=\"unlocked\"",
            "<rect class=\"refused\"",
            "5 unlocked</li>",
            "Trackfinity answered 404",
            "1, none the hour before",
            "href=\"https://grafana.example.com/d/x\"",
            "1 worker consumes requests",
            "href=\"/dead-letters?status=refused&#38;reason=http_404\"",
        ] {
            assert!(overview.contains(part), "{part}: {overview}");
        }
        assert_eq!(anna.get("/?window=year").await.status, 400);
        let trend = page.api("GET", "/api/v1/outcomes?window=week", VIEWER, None).await.json();
        assert_eq!(trend["intervals"].as_array().map(Vec::len), Some(56), "{trend}");
        assert_eq!(trend["intervals"][55]["counts"], serde_json::json!({"refused": 1, "unlocked": 5}));
        assert_eq!((&trend["up_to_date"], &trend["interval_s"]), (&true.into(), &10800.into()));
    });
}

#[test]
fn without_history_and_without_dead_letters_it_says_so() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let mut anna = page.logged_in(VIEWER).await;
        let overview = anna.get("/").await.body;
        for part in ["The history is off", "Nothing waits for a person", "1 worker consumes requests"] {
            assert!(overview.contains(part), "{part}: {overview}");
        }
        let off = page.api("GET", "/api/v1/outcomes", VIEWER, None).await;
        assert_eq!((off.status, off.json()["code"].as_str()), (404, Some("history_off")));
        page.world.stop().await;
        let stopped = async || {
            let overview = anna.get("/").await.body;
            if overview.contains("No worker consumes requests") { Ok(()) } else { Err(overview) }
        };
        kit::eventually("the worker's end", SOON, stopped).await;
    });
}

#[test]
fn nothing_but_the_login_is_there_before_the_login() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let login = page.get("/login").await.body;
        assert!(!login.contains("<nav") && !login.contains("/search"), "{login}");
        let mut anna = page.logged_in(VIEWER).await;
        let inside = anna.get("/jobs").await.body;
        assert!(inside.contains("<nav") && inside.contains("action=\"/search\""), "{inside}");
    });
}

#[test]
fn queues_are_counted_also_after_many_questions_that_rabbitmq_refused() {
    kit::run(async |ctx| {
        // lapin cannot use the number of a channel again that RabbitMQ has closed.
        let console = Console::start(&ctx, &format!("{}?channel_max=20", ctx.amqp_url()), &[]).await;
        let ask = async || Request::new("GET", "/api/v1/queues").send(&console.address).await.json();
        let mut looks = 0;
        let missing = async || {
            looks += 1;
            assert!(ask().await["unseen"].to_string().contains("do not exist"));
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
            looks == 8
        };
        kit::eventually("some looks, which are reused for 2 s", SOON, missing).await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let counted = async || {
            let queues = ask().await;
            if queues["unseen"] == serde_json::json!([]) { Ok(queues) } else { Err(queues.to_string()) }
        };
        let queues = kit::eventually("all counts", SOON, counted).await;
        assert_eq!(queues["workers_consuming"], 1, "{queues}");
        world.stop().await;
    });
}
