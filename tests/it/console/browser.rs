//! The console in a real browser, which runs no script; with pictures of it, in `target/screenshots`. An
//! accessibility checker looks at each page.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kit::{Chromium, Screen};

use super::*;

/// No larger than this, in bytes, is a picture in the documents.
const MAX_PICTURE: u64 = 150_000;

fn pictures() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots")
}

/// Somebody's browser, and the accessibility checker.
struct Walk {
    chromium: Chromium,
    axe: String,
    faults: Vec<String>,
}

/// How many tables are wider than their place, and how many labels have two lines.
const BESIDE: &str =
    "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length";
const BROKEN: &str =
    "[...document.querySelectorAll('.tag:not(.sentence)')].filter(e => e.offsetHeight > 32).length";

impl Walk {
    async fn start(ctx: &Context) -> Self {
        let axe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/axe/node_modules/axe-core/axe.min.js");
        let axe = std::fs::read_to_string(axe).expect("no axe-core: run scripts/get-clients axe");
        Self { chromium: Chromium::start(ctx).await, axe, faults: Vec::new() }
    }

    /// Keeps a picture of the page on each kind of screen. Notes what lies beside it, labels that are broken into
    /// lines, and what the checker finds.
    async fn look(&mut self, name: &str) {
        for (screen, kind) in [(Screen::NIGHT, "dark"), (Screen::PHONE, "phone"), (Screen::DESKTOP, "light")]
        {
            self.chromium.show_on(screen);
            for (what, expression) in [
                (
                    "the page is wider than the screen",
                    "document.documentElement.scrollWidth > innerWidth ? 1 : 0",
                ),
                ("tables do not fit", BESIDE),
                ("labels are broken", BROKEN),
            ] {
                let count = self.chromium.value(expression).await;
                if count != 0 {
                    self.faults.push(format!("{name}, {kind}: {what} ({count})"));
                }
            }
            let found = self.chromium.violations(&self.axe).await;
            self.faults.extend(found.iter().map(|found| format!("{name}, {kind}: {found}")));
            self.chromium.picture(&pictures().join(format!("{name}-{kind}.png")));
        }
    }

    /// Also keeps a picture for the documents, if they are to be written.
    fn document(&mut self, name: &str, screen: Screen) {
        if std::env::var_os("UPDATE_DOCS").is_none() {
            return;
        }
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screenshots").join(format!("{name}.webp"));
        self.chromium.show_on(screen);
        self.chromium.picture(&path);
        self.chromium.show_on(Screen::DESKTOP);
        let size = std::fs::metadata(&path).expect("the picture").len();
        assert!(size <= MAX_PICTURE, "{name} has {size} bytes");
    }
}

const LISTED: &str = "document.querySelectorAll('input[name=dead_letter]').length";

#[test]
fn somebody_on_call_searches_mends_filters_replays_resumes_and_discards() {
    kit::run_within(Duration::from_secs(300), async |ctx| {
        let traces = ("CONSOLE__TRACE_URL", "https://traces.example.com/trace/{trace_id}");
        let page = Page::start_with_history(ctx, &[traces]).await;
        let tokens = [("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR), traces];
        let second = Console::start(&page.world.ctx, page.world.ctx.amqp_url(), &tokens).await;
        for n in 0..40 {
            let properties = id(&format!("order-{n}")).with_app_id("billing".into());
            let customer = if n % 13 == 5 { "no".to_owned() } else { format!("{}", 180 + n % 20) };
            page.world.publish(properties, format!(r#"{{"customer_id":"{customer}"}}"#)).await;
        }
        page.world.outcomes(40).await;
        page.world.amqp.drain(DEAD).await;
        page.publish_dead_letters(8).await;
        let mut walk = Walk::start(&page.world.ctx).await;
        let go = |walk: &mut Walk, path: &str| walk.chromium.go(&format!("http://{}{path}", page.address));

        go(&mut walk, "/dead-letters");
        walk.chromium.wait_heading("Log in").await;
        walk.look("1-login").await;
        walk.chromium.type_into("#name", "Anna");
        walk.chromium.type_into("#token", "wrong");
        walk.chromium.press("main form button");
        walk.chromium.wait("what is wrong", "document.querySelector('[role=alert]') !== null").await;
        assert_eq!(walk.chromium.evaluate("document.querySelector('#name').value"), "Anna");
        walk.chromium.type_into("#token", OPERATOR);
        walk.chromium.press("main form button");
        walk.chromium.wait_heading("Dead letters").await;

        walk.chromium.press("nav a[href='/']");
        walk.chromium.wait_heading("Overview").await;
        walk.chromium.press_tab();
        assert_eq!(walk.chromium.evaluate("document.activeElement.innerText"), "Skip to the content");
        walk.chromium.evaluate("document.activeElement.blur()");
        walk.chromium.press("nav a[href='/?window=hour']");
        let drawn = "document.querySelector('svg.chart title')?.textContent.includes('37 unlocked')";
        walk.chromium.wait("the chart", drawn).await;
        walk.look("2-overview").await;
        walk.document("overview", Screen::DESKTOP);
        walk.document("overview-phone", Screen::PHONE);

        walk.chromium.type_into("input[name=q]", "no");
        walk.chromium.press(".find button");
        walk.chromium.wait("the timeline", "document.querySelectorAll('.timeline li').length === 3").await;
        let text = walk.chromium.evaluate("document.querySelector('main').innerText");
        let text = text.as_str().expect("a text");
        assert!(
            text.contains("Refused: Trackfinity answered 404") && text.contains("Asked by billing"),
            "{text}"
        );
        walk.look("3-timeline").await;
        walk.document("timeline", Screen::DESKTOP);

        page.world.publish(id("order-40"), r#"{"customer":"191"}"#).await;
        page.world.outcomes(41).await;
        go(&mut walk, "/dead-letters?status=invalid");
        walk.chromium.wait("the invalid one", &format!("{LISTED} === 1")).await;
        walk.chromium.press("tbody tr:nth-child(1) th a");
        walk.chromium.wait("a dead letter", "document.querySelector('.mask button') !== null").await;
        walk.chromium.press(".mask button");
        walk.chromium.wait("its body", "document.querySelector('#set_customer_id') !== null").await;
        walk.look("15-correct").await;
        walk.chromium.type_into("#set_customer_id", "191");
        walk.chromium.press("fieldset button[value=replay]");
        walk.chromium.wait_heading("Replay 1 dead letter?").await;
        walk.look("16-before-and-after").await;
        walk.document("correction", Screen::DESKTOP);
        walk.chromium.press(".confirm button");
        walk.chromium
            .wait("its end", "document.body.innerText.includes('1 request replayed: 1 unlocked')")
            .await;

        go(&mut walk, "/");
        walk.chromium.wait_heading("Overview").await;
        walk.chromium.press("a[href='/dead-letters?status=refused&reason=http_404']");
        walk.chromium.wait("the filtered list", &format!("{LISTED} === 6")).await;
        walk.chromium.type_into("#until", "2026-11-01T09:00:04Z");
        walk.chromium.press("form.filters button");
        walk.chromium.wait("a shorter list", &format!("{LISTED} === 4")).await;
        walk.look("4-dead-letters").await;

        walk.chromium.press("tbody tr:nth-child(1) th a");
        walk.chromium.wait("a dead letter", "document.querySelector('article') !== null").await;
        let text = walk.chromium.evaluate("document.body.innerText");
        assert!(!text.as_str().is_some_and(|text| text.contains("c-0")));
        walk.look("5-masked").await;
        walk.chromium.press(".mask button");
        walk.chromium.wait("its body", "document.querySelector('pre') !== null").await;
        let text = walk.chromium.evaluate("document.body.innerText");
        let text = text.as_str().expect("a text");
        assert!(text.contains("c-0") && text.contains("<script>alert(1)</script>"), "{text}");
        assert_eq!(walk.chromium.evaluate("document.querySelectorAll('script').length"), 0);
        walk.look("6-shown").await;

        go(&mut walk, "/dead-letters?status=refused");
        walk.chromium.wait("the list", &format!("{LISTED} === 6")).await;
        for row in 1..=3 {
            walk.chromium.press(&format!("tbody tr:nth-child({row}) input[name=dead_letter]"));
        }
        walk.document("dead-letters", Screen::DESKTOP);
        walk.chromium.press("button[value=replay]");
        walk.chromium.wait_heading("Replay 3 dead letters?").await;
        walk.look("7-plan").await;
        walk.chromium.type_into("#per_second", "0.01");
        walk.chromium.press(".confirm button");
        walk.chromium.wait_heading("Replay of 3 dead letters").await;
        let job = walk.chromium.evaluate("location.pathname");
        let job = job.as_str().expect("a path").to_owned();

        // The other console shows the progress, without another login, and without a script.
        walk.chromium.go(&format!("http://{}{job}", second.address));
        walk.chromium.wait("its progress", "document.title.startsWith('replay: 1 of 3')").await;
        walk.look("8-replaying").await;
        page.console.process.kill9();
        let interrupted = "document.querySelector('.state .tag')?.innerText === 'interrupted'";
        walk.chromium.wait("the interruption", interrupted).await;
        walk.look("9-interrupted").await;
        walk.document("interrupted", Screen::DESKTOP);
        walk.chromium.type_into("#per_second", "100");
        walk.chromium.press(".confirm button");
        let unlocked =
            "[...document.querySelectorAll('tbody .tag')].filter(e => e.innerText === 'unlocked').length";
        let ended = format!("{unlocked} === 2 && !document.body.innerText.includes('reloads every')");
        walk.chromium.wait("two unlocked", &ended).await;
        walk.look("10-resumed").await;
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 5);

        let go = |walk: &mut Walk, path: &str| walk.chromium.go(&format!("http://{}{path}", second.address));
        go(&mut walk, "/dead-letters?status=abandoned");
        walk.chromium.wait("the list", &format!("{LISTED} === 2")).await;
        walk.chromium.press("tbody tr:nth-child(1) input[name=dead_letter]");
        walk.chromium.type_into("#discard_reason", "the customer has left");
        walk.chromium.press_enter();
        walk.chromium.wait_heading("Discard 1 dead letter?").await;
        walk.look("11-discard").await;
        walk.chromium.press(".confirm button");
        walk.chromium.wait("its end", "document.body.innerText.includes('1 request discarded')").await;
        let outcomes = page.world.outcomes(46).await;
        assert_eq!(outcomes["r-2"]["reason"], "the customer has left");
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 4);

        walk.chromium.press("nav a[href='/jobs']");
        walk.chromium.wait_heading("Jobs").await;
        walk.look("12-jobs").await;
        go(&mut walk, "/search");
        walk.chromium.wait_heading("Find").await;
        walk.look("13-find").await;
        go(&mut walk, "/nowhere");
        walk.chromium.wait_heading("Not Found").await;
        walk.look("14-not-found").await;
        go(&mut walk, "/");
        walk.chromium.wait_heading("Overview").await;
        walk.chromium.press(".account button");
        walk.chromium.wait_heading("Log in").await;
        go(&mut walk, "/");
        walk.chromium.wait_heading("Log in").await;
        page.world.stop().await;
        assert!(walk.faults.is_empty(), "{:#?}", walk.faults);
    });
}
