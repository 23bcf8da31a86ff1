//! Other sites, other names, and what every answer carries.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

#[test]
fn a_form_from_another_site_does_nothing() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(1).await;
        let operator = page.logged_in(OPERATOR).await;
        let (cookie, csrf) = (operator.cookie(), operator.csrf.clone());
        // Even were the session's cookie sent along, and its secret known.
        let fields = [("csrf", csrf.as_str()), ("action", "replay"), ("dead_letter", "r-0")];
        let own = format!("http://{}", page.address);
        for headers in [
            &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")][..],
            &[("origin", "https://evil.example")],
            &[("origin", own.as_str()), ("sec-fetch-site", "same-site")],
            &[("origin", "null")],
            &[],
        ] {
            for path in [
                "/plans",
                "/dead-letters/r-0/show",
                "/logout",
                "/login",
                "/plans/0123456789ab",
                "/jobs/x/stop",
            ] {
                let mut request = Request::new("POST", path).form(&fields).header("cookie", &cookie);
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let response = request.send(&page.address).await;
                assert_eq!(response.status, 403, "{path} {headers:?}");
                assert!(response.body.contains("from another site"), "{}", response.body);
            }
        }
        assert_eq!(page.audit(), Vec::<Value>::new());
    });
}

#[test]
fn a_form_without_the_sessions_secret_does_nothing() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(1).await;
        let mut operator = page.logged_in(OPERATOR).await;
        let other = page.logged_in(OPERATOR).await.csrf;
        for csrf in ["", "guess", &other] {
            for path in ["/plans", "/dead-letters/r-0/show", "/logout", "/plans/0123456789ab", "/jobs/x/stop"]
            {
                let form =
                    operator.form(path, &[("csrf", csrf), ("action", "replay"), ("dead_letter", "r-0")]);
                let response = operator.send(form).await;
                assert_eq!(response.status, 403, "{path} {csrf}");
                assert!(response.body.contains("does not belong to your session"), "{}", response.body);
            }
        }
        // A login, too, has to come from a form that this browser was given.
        let mut stranger = Browser::new(&page.address);
        let form = stranger.form("/login", &[("csrf", "guess"), ("name", "Eve"), ("token", OPERATOR)]);
        assert_eq!(stranger.send(form).await.status, 403);
        assert_eq!(page.audit(), Vec::<Value>::new());
        assert_eq!(operator.get("/").await.status, 200, "nobody was logged out");
    });
}

#[test]
fn a_name_that_is_not_the_pages_is_not_answered() {
    kit::run(async |ctx| {
        let page = Page::start_with(ctx, &[("CONSOLE__ALLOWED_HOSTS", "unlocker.example.com")]).await;
        for host in ["evil.example", "localhost", "127.0.0.1", "", "evil.example:80"] {
            for path in ["/", "/style.css", "/login", "/api/v1/summary", "/api/v1/openapi.json"] {
                let response = Request::new("GET", path).host(host).send(&page.address).await;
                assert_eq!(response.status, 421, "{host} {path}");
            }
        }
        let port = page.address.rsplit(':').next().expect("a port");
        for host in ["unlocker.example.com", &format!("localhost:{port}"), &page.address] {
            assert_eq!(Request::new("GET", "/").host(host).send(&page.address).await.status, 200, "{host}");
        }
        let two = Request::new("GET", "/").header("host", "evil.example").send(&page.address).await;
        assert!(matches!(two.status, 400 | 421), "two hosts: {}", two.status);
        let absolute = Request::new("GET", "http://evil.example/").send(&page.address).await;
        assert_eq!(absolute.status, 421);
    });
}

#[test]
fn every_answer_carries_its_headers_and_cookies_are_kept_from_others() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        for path in ["/", "/login", "/style.css", "/nowhere", "/api/v1/summary", "/api/v1/nowhere"] {
            let response = page.get(path).await;
            assert_eq!(
                response.headers["content-security-policy"],
                "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
            );
            for (name, value) in [
                ("cache-control", "no-store"),
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "same-origin"),
                ("x-frame-options", "DENY"),
            ] {
                assert_eq!(response.headers[name], value, "{path}");
            }
            assert!(!response.body.contains("<script") && !response.body.contains("style="), "{path}");
        }
        let mut browser = Browser::new(&page.address);
        let response = browser.log_in("Anna", OPERATOR).await;
        let cookie = &response.cookies[0];
        assert!(
            cookie.starts_with("unlocker_session=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax")
        );
        // Behind a proxy that ends TLS.
        let mut browser = Browser::new(&page.address);
        browser.get("/login").await;
        let csrf = browser.csrf.clone();
        let form = browser.form("/login", &[("csrf", &csrf), ("name", "Anna"), ("token", OPERATOR)]);
        let response = browser.send(form.header("x-forwarded-proto", "https, http")).await;
        assert!(response.cookies[0].ends_with("; SameSite=Lax; Secure"), "{:?}", response.cookies);
    });
}

#[test]
fn a_login_form_stays_good_while_another_tab_shows_one() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let mut browser = Browser::new(&page.address);
        browser.get("/login").await;
        let first = browser.csrf.clone();
        browser.get("/login?to=%2Fjobs").await;
        let form = browser.form("/login", &[("csrf", &first), ("name", "Anna"), ("token", OPERATOR)]);
        assert_eq!(browser.send(form).await.status, 303);
    });
}

#[test]
fn a_problem_leads_back_to_where_its_user_may_go() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let mut anna = page.logged_in(VIEWER).await;
        for path in ["/nowhere", "/jobs/000000000000", "/dead-letters?since=soon", "/plans/0123456789ab"] {
            let problem = anna.get(path).await;
            assert!(problem.status >= 400, "{path}: {}", problem.status);
            for part in ["role=\"alert\"", "Anna (viewer)", "action=\"/search\"", "href=\"/dead-letters\""] {
                assert!(problem.body.contains(part), "{path}: no {part}: {}", problem.body);
            }
            assert!(!problem.body.contains("href=\"/login\""), "{path}: {}", problem.body);
        }
        let stranger = page.get("/nowhere").await.body;
        assert!(stranger.contains("href=\"/login\"") && !stranger.contains("<nav"), "{stranger}");
        let long = anna.get(&format!("/search?q={}", "x".repeat(300))).await;
        assert!(long.status == 400 && long.body.contains("at most 255 bytes"), "{}", long.body);
    });
}

#[test]
fn a_dead_letter_is_shown_by_an_id_with_any_characters() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let request = "shop/order 7?#%2F";
        page.world.publish(id(request), r#"{"customer_id":"no"}"#).await;
        page.world.outcomes(1).await;
        let mut anna = page.logged_in(OPERATOR).await;
        let path = "/dead-letters/shop%2Forder%207%3F%23%252F";
        let there = async || anna.get(path).await.status == 200;
        kit::eventually("the dead letter", SOON, there).await;
        let masked = anna.get(path).await.body;
        let (_, rest) = masked.split_once("<form method=\"post\" action=\"/dead-letters/").expect("a form");
        let action = format!("/dead-letters/{}", rest.split('"').next().expect("an address"));
        let shown = anna.post(&action, &[]).await;
        assert!(shown.status == 200 && shown.body.contains("customer_id"), "{action}: {}", shown.body);
    });
}

#[test]
fn what_changes_something_is_a_post_and_no_larger_than_a_form() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let mut operator = page.logged_in(OPERATOR).await;
        for path in ["/plans", "/dead-letters/r-0/show", "/logout", "/jobs/x/stop"] {
            assert_eq!(operator.get(path).await.status, 405, "{path}");
        }
        let large = "x".repeat(70 * 1024);
        assert_eq!(operator.post("/dead-letters/r-0/show", &[("dead_letter", &large)]).await.status, 413);
        // This form may have a new body for a request.
        assert_eq!(operator.post("/plans", &[("dead_letter", &large.repeat(4))]).await.status, 413);
        let request = serde_json::json!({"action": "replay", "filter": {"ids": [large]}});
        assert_eq!(page.api("POST", "/api/v1/plans", OPERATOR, Some(request)).await.status, 413);
    });
}

#[test]
fn connections_that_say_nothing_are_closed_and_keep_nobody_out_for_long() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let mut silent = Vec::new();
        for _ in 0..64 {
            let mut stream = TcpStream::connect(&page.address).await.expect("a connection");
            stream.write_all(b"GET / HT").await.expect("half a head is sent");
            silent.push(stream);
        }
        // It takes its turn when the first of them is closed.
        assert_eq!(page.get("/login").await.status, 200);
        for stream in &mut silent {
            let mut rest = Vec::new();
            let closed = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "it is still open");
        }
    });
}
