//! The search across history and dead letters.

use super::*;
use crate::world::start_worker;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Publishes a request of order `o-1`.
async fn ask(page: &Page, request: &str, customer: &str) {
    let mut headers = FieldTable::default();
    headers.insert(
        "traceparent".into(),
        AMQPValue::LongString(format!("00-{TRACE}-0123456789abcdef-01").into()),
    );
    let properties = id(request).with_app_id("billing".into()).with_headers(headers);
    let body = format!(r#"{{"customer_id":"{customer}","orderid":"o-{request}"}}"#);
    page.world.publish(properties, body).await;
}

/// Searches until the page says this; returns it.
async fn finds(browser: &mut Browser, text: &str, words: &str) -> String {
    let found = async || {
        let page = browser.get(&format!("/search?q={text}")).await.body;
        if page.contains(words) { Ok(page) } else { Err(page) }
    };
    kit::eventually(words, SOON, found).await
}

#[test]
fn a_customers_requests_are_a_timeline_in_the_words_of_support() {
    kit::run_within(std::time::Duration::from_secs(120), async |ctx| {
        let page = Page::start_with_history(ctx, &[]).await;
        ask(&page, "r-1", "191").await;
        ask(&page, "r-2", "no").await;
        page.world.outcomes(2).await;
        let mut anna = page.logged_in(OPERATOR).await;
        let found = finds(&mut anna, "191", "Unlocked").await;
        assert!(found.contains("Asked by billing") && found.contains("1 request<"), "{found}");
        assert!(!found.contains("r-2"), "{found}");

        let found = finds(&mut anna, "no", "Refused: Trackfinity answered 404").await;
        assert!(found.contains("Waits as a dead letter, refused: Trackfinity answered 404"), "{found}");
        let (_, link) = found.split_once("<a href=\"/dead-letters/").expect("a link");
        let dead_letter = link.split('"').next().expect("an id").to_owned();
        let planned = anna.post("/plans", &[("action", "replay"), ("dead_letter", &dead_letter)]).await;
        anna.post(planned.location(), &[("keep_going", "yes")]).await;
        page.world.outcomes(3).await;
        let words = "Replayed by Anna (operator). Refused: Trackfinity answered 404";
        // An answer is kept for ten seconds.
        finds(&mut anna, "no", words).await;

        let listed = anna.get("/api/v1/dead-letters").await;
        assert_eq!(listed.status, 401, "a cookie opens no API");
        let list = page.api("GET", "/api/v1/dead-letters", OPERATOR, None).await.json();
        let id = list["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
        let discard =
            [("action", "discard"), ("dead_letter", &id), ("discard_reason", "the customer has left")];
        let planned = anna.post("/plans", &discard).await;
        anna.post(planned.location(), &[]).await;
        let found = finds(&mut anna, "o-r-2", "Discarded by Anna (operator): the customer has left").await;
        assert!(!found.contains("Waits as a dead letter"), "{found}");
        let at = |words: &str| found.find(words).unwrap_or_else(|| panic!("{words}: {found}"));
        assert!(at("Refused: ") < at("Replayed by ") && at("Replayed by ") < at("Discarded by "));

        for text in ["r-1", TRACE] {
            finds(&mut anna, text, "Request <code>r-1</code>").await;
        }
        let both = finds(&mut anna, TRACE, "2 requests").await;
        assert!(both.contains("Request <code>r-2</code>"), "{both}");
        assert!(finds(&mut anna, "19", "Nothing was found").await.contains("Outcomes since"));
    });
}

#[test]
fn a_search_shows_no_identifier_but_the_one_that_was_searched() {
    kit::run(async |ctx| {
        let page = Page::start_with_history(ctx, &[]).await;
        ask(&page, "r-1", "c-4711").await;
        ask(&page, "r-2", "no").await;
        page.publish_dead_letters_beside(1, 1).await;
        let mut viewer = page.logged_in(VIEWER).await;
        let found = finds(&mut viewer, "r-1", "Unlocked").await;
        assert!(!found.contains("4711") && !found.contains("o-r-1"), "{found}");
        for (text, is_there) in [("c-0", true), ("c-1", false), ("r-0", true)] {
            let found = viewer.get(&format!("/search?q={text}")).await.body;
            assert_eq!(found.contains("Waits as a dead letter"), is_there, "{text}: {found}");
            for secret in SECRETS {
                assert!(!found.contains(secret), "{secret}: {found}");
            }
        }
        assert_eq!(page.audit(), Vec::<Value>::new());
        let hostile = viewer.get("/search?q=%3Cscript%3Ealert(1)%3C/script%3E").await.body;
        assert!(!hostile.contains("<script>") && hostile.contains("&#60;script&#62;"), "{hostile}");
        let long = viewer.get(&format!("/search?q={}", "x".repeat(256))).await;
        assert_eq!(long.status, 400);
        assert!(viewer.get("/search").await.body.contains("It must be complete"));
        let nobody = Request::new("GET", "/search?q=191").send(&page.address).await;
        assert_eq!((nobody.status, nobody.location()), (303, "/login?to=%2Fsearch%3Fq%3D191"));
    });
}

#[test]
fn without_the_history_dead_letters_are_searched_and_the_page_says_so() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(2).await;
        let found = page.api("GET", "/api/v1/search?q=c-1", VIEWER, None).await.json();
        assert_eq!(found["requests"][0]["request_id"], "r-1", "{found}");
        assert_eq!(found["requests"][0]["events"][1]["kind"], "waits", "{found}");
        assert!(found["unseen"][0].as_str().is_some_and(|note| note.contains("history.enabled")), "{found}");
        assert_eq!(page.api("GET", "/api/v1/search", VIEWER, None).await.status, 400);
    });
}

#[test]
fn outcomes_are_found_also_after_someone_has_deleted_the_history() {
    kit::run_within(std::time::Duration::from_secs(120), async |ctx| {
        let page = Page::start_with_history(ctx, &[]).await;
        let mut anna = page.logged_in(VIEWER).await;
        for request in ["r-1", "r-2", "r-3"] {
            ask(&page, request, "191").await;
        }
        finds(&mut anna, "191", "3 requests").await;
        let channel = page.world.amqp.channel().await;
        let options = lapin::options::QueueDeleteOptions::default();
        channel.queue_delete("trackfinity.unlock.history".into(), options).await.expect("deleted");
        let (ctx, base_url) = (&page.world.ctx, page.world.trackfinity.url());
        let on = ("HISTORY__ENABLED", "true");
        let _declares = start_worker(ctx, ctx.amqp_url(), &base_url, &[on]).await;
        ask(&page, "r-4", "192").await;
        let found = finds(&mut anna, "192", "Request <code>r-4</code>").await;
        assert!(!found.contains("cannot be read"), "{found}");
        assert!(!anna.get("/search?q=r-1").await.body.contains("Request <code>"), "it is gone");
    });
}

#[test]
fn an_answer_is_reused_for_a_moment_also_without_a_history() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(1).await;
        let mut anna = page.logged_in(VIEWER).await;
        let found = anna.get("/search?q=c-0").await.body;
        assert!(
            found.contains("The history is off") && found.contains("Request <code>r-0</code>"),
            "{found}"
        );
        // Another browse would fail.
        let options = lapin::options::QueueDeleteOptions::default();
        page.world.amqp.channel().await.queue_delete(DEAD.into(), options).await.expect("deleted");
        let again = anna.get("/search?q=c-0").await.body;
        assert!(again.contains("Request <code>r-0</code>"), "{again}");
        let other = anna.get("/search?q=c-1").await.body;
        assert!(other.contains("The dead letters: "), "this one was not reused: {other}");
    });
}
