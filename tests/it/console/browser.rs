//! The page in a real browser, which runs no script; with pictures of it, in `target/screenshots`.

use std::{path::PathBuf, time::Duration};

use kit::{Chromium, Screen};

use super::*;

fn pictures() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots")
}

/// Keeps a picture of the page on each kind of screen, and sees that none of it lies beside.
fn picture(chromium: &mut Chromium, name: &str) {
    for (screen, kind) in [(Screen::NIGHT, "dark"), (Screen::PHONE, "phone"), (Screen::DESKTOP, "light")] {
        chromium.show_on(screen);
        let width = chromium.evaluate("document.documentElement.scrollWidth");
        assert_eq!(width, screen.width, "{name} does not fit: {kind}");
        chromium.picture(&pictures().join(format!("{name}-{kind}.png")));
    }
}

#[test]
fn somebody_on_call_filters_opens_replays_three_and_discards_one() {
    kit::run_within(Duration::from_secs(120), async |ctx| {
        let page = Page::start_with(
            ctx,
            &[
                ("CONSOLE__VIEWER_TOKEN", VIEWER),
                ("CONSOLE__OPERATOR_TOKEN", OPERATOR),
                ("CONSOLE__TRACE_URL", "https://traces.example.com/trace/{trace_id}"),
            ],
        )
        .await;
        page.publish_dead_letters(8).await;
        let mut browser = Chromium::start(&page.world.ctx).await;

        browser.go(&format!("http://{}/dead-letters", page.address));
        browser.wait_heading("Log in").await;
        picture(&mut browser, "1-login");
        browser.type_into("#name", "Anna");
        browser.type_into("#token", "wrong");
        browser.press("main form button");
        browser.wait("what is wrong", "document.querySelector('[role=alert]') !== null").await;
        assert_eq!(browser.evaluate("document.querySelector('#name').value"), "Anna");
        browser.type_into("#token", OPERATOR);
        browser.press("main form button");
        browser.wait_heading("Dead letters").await;

        browser.press("a[href='/']");
        browser.wait_heading("Overview").await;
        browser.press_tab();
        assert_eq!(browser.evaluate("document.activeElement.innerText"), "Skip to the content");
        browser.evaluate("document.activeElement.blur()");
        picture(&mut browser, "2-overview");
        browser.press("a[href='/dead-letters?status=refused&reason=http_404']");
        browser
            .wait("the filtered list", "document.querySelectorAll('input[name=dead_letter]').length === 6")
            .await;
        browser.type_into("#until", "2026-11-01T09:00:04Z");
        browser.press("form[role=search] button");
        browser
            .wait("a shorter list", "document.querySelectorAll('input[name=dead_letter]').length === 4")
            .await;
        picture(&mut browser, "3-dead-letters");

        browser.press("tbody tr:nth-child(1) th a");
        browser.wait("a dead letter", "document.querySelector('article') !== null").await;
        assert!(
            !browser.evaluate("document.body.innerText").as_str().is_some_and(|text| text.contains("c-0"))
        );
        picture(&mut browser, "4-masked");
        browser.press(".mask button");
        browser.wait("its body", "document.querySelector('pre') !== null").await;
        let text = browser.evaluate("document.body.innerText");
        let text = text.as_str().expect("a text");
        assert!(text.contains("c-0") && text.contains("<script>alert(1)</script>"), "{text}");
        assert_eq!(browser.evaluate("document.querySelectorAll('script').length"), 0);
        picture(&mut browser, "5-shown");

        browser.go(&format!("http://{}/dead-letters?status=refused", page.address));
        browser.wait("the list", "document.querySelectorAll('input[name=dead_letter]').length === 6").await;
        for row in 1..=3 {
            browser.press(&format!("tbody tr:nth-child({row}) input[name=dead_letter]"));
        }
        browser.press("button[value=replay]");
        browser.wait_heading("Replay 3 dead letters?").await;
        picture(&mut browser, "6-plan");
        browser.press(".confirm button");
        browser.wait_heading("Replay of 3 dead letters").await;
        picture(&mut browser, "7-replaying");
        let unlocked =
            "[...document.querySelectorAll('tbody .tag')].filter(e => e.innerText === 'unlocked').length";
        browser
            .wait(
                "three unlocked",
                &format!("{unlocked} === 3 && !document.querySelector('meta[http-equiv]')"),
            )
            .await;
        picture(&mut browser, "8-replayed");
        assert_eq!(page.world.outcomes(3).await.keys().collect::<Vec<_>>(), ["r-0", "r-1", "r-3"]);

        browser.go(&format!("http://{}/dead-letters?status=abandoned", page.address));
        browser.wait("the list", "document.querySelectorAll('input[name=dead_letter]').length === 2").await;
        browser.press("tbody tr:nth-child(1) input[name=dead_letter]");
        browser.type_into("#discard_reason", "the customer has left");
        browser.press_enter();
        browser.wait_heading("Discard 1 dead letter?").await;
        picture(&mut browser, "9-discard");
        browser.press(".confirm button");
        browser.wait("its end", "document.body.innerText.includes('1 request discarded')").await;
        assert_eq!(page.world.outcomes(4).await["r-2"]["reason"], "the customer has left");
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 4);

        browser.press("a[href='/jobs']");
        browser.wait_heading("Jobs").await;
        picture(&mut browser, "10-jobs");
        browser.press(".account button");
        browser.wait_heading("Log in").await;
        browser.go(&format!("http://{}/", page.address));
        browser.wait_heading("Log in").await;
        page.world.stop().await;
    });
}
