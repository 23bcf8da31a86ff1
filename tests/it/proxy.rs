//! Calls to Trackfinity through a real HTTP CONNECT proxy.

mod authorities;
mod place;
mod route;

use kit::{Program, ProxyRules, Tinyproxy};
use serde_json::json;

use self::place::{OPEN, Place, WITH_LOGIN, check, find, paused, proxy_url};
use crate::world::{SOON, text};

/// Nobody listens on this port.
const CLOSED: ProxyRules = ProxyRules { login: None, target_port: Some(1) };

#[test]
fn calls_go_through_the_proxy_with_and_without_a_login() {
    kit::run(async |ctx| {
        let place = Place::new(&ctx);
        for (rules, login) in [(OPEN, ""), (WITH_LOGIN, "worker:pass-word@")] {
            let proxy = Tinyproxy::start(&ctx, rules).await;
            let program = place.worker().env("UNLOCKER__TRACKFINITY__PROXY", proxy_url(&proxy, login));
            let log = place.serve_one(&program).await;
            kit::eventually("the proxy logs a tunnel", SOON, async || proxy.asked() > 0).await;
            assert_eq!(proxy.asked(), 1, "one tunnel");
            let route =
                format!("go through the HTTP proxy {}, which trackfinity.proxy names", proxy.address());
            assert!(log.iter().any(|line| line.contains(&route)), "{log:#?}");
            assert!(!log.join("\n").contains("pass-word"));
        }
        assert_eq!(place.trackfinity.count(), 2);
    });
}

#[test]
fn a_wrong_login_is_an_endpoint_fault_and_a_new_file_with_the_right_one_ends_the_pause() {
    kit::run(async |ctx| {
        let place = Place::new(&ctx);
        // tinyproxy answers 407 where no login comes, and 401 to a wrong one.
        for (n, (login, status)) in [("", "407"), ("worker:wrong-word@", "401")].into_iter().enumerate() {
            let proxy = Tinyproxy::start(&ctx, WITH_LOGIN).await;
            let file = place.secrets.write(&format!("proxy-{n}"), &proxy_url(&proxy, login));
            let ops = format!("127.0.0.1:{}", kit::free_port());
            let program = place
                .worker()
                .env("UNLOCKER__TRACKFINITY__PROXY_FILE", &file)
                .env("UNLOCKER__OPS__LISTEN", &ops);
            let (worker, outcomes) = place.start(program).await;
            place.publish(40).await;
            let answered = format!("the HTTP proxy answered {status}");
            let through =
                format!("through the HTTP proxy {}, which trackfinity.proxy names", proxy.address());
            let advice = "Check the user and the password in trackfinity.proxy";
            paused(&ops, 503, &["endpoint_fault", &answered, advice, &through]).await;
            let line = worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
            assert!(line.contains(&answered) && line.contains(advice) && line.contains(&through), "{line}");
            let line = worker.wait_for_line(|line| line.contains(r#""event":"no_tunnel""#), SOON).await;
            assert!(
                line.contains(&format!("the HTTP proxy {} answered {status} to CONNECT", proxy.address())),
                "{line}"
            );
            assert!(outcomes.is_empty());
            place.secrets.write(&format!("proxy-{n}"), &proxy_url(&proxy, "worker:pass-word@"));
            let all = outcomes.wait_count(40, SOON).await;
            for outcome in all {
                let outcome = outcome.json();
                assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("unlocked"), &json!(1)));
            }
            place.assert_no_dead_letter().await;
            worker.signal(kit::Signal::TERM);
            assert!(worker.wait_exit(SOON).await.success());
            let log = worker.stderr().join("\n");
            assert!(!log.contains("pass-word") && !log.contains("wrong-word"), "{log}");
        }
    });
}

#[test]
fn a_proxy_that_is_down_is_a_failure_that_names_it_and_all_is_served_when_it_is_back() {
    const COUNT: usize = 200;
    kit::run(async |ctx| {
        let place = Place::new(&ctx);
        let mut proxy = Tinyproxy::start(&ctx, OPEN).await;
        let ops = format!("127.0.0.1:{}", kit::free_port());
        let program = place
            .worker()
            .env("UNLOCKER__TRACKFINITY__PROXY", proxy_url(&proxy, ""))
            .env("UNLOCKER__OPS__LISTEN", &ops);
        let (worker, outcomes) = place.start(program).await;
        place.publish(1).await;
        outcomes.wait_count(1, SOON).await;
        // With its tunnels.
        proxy.end();
        place.publish(COUNT).await;
        let unreachable = "the HTTP proxy for Trackfinity cannot be reached";
        let through = format!("through the HTTP proxy {}, which trackfinity.proxy names", proxy.address());
        // A transient failure: the worker is ready.
        paused(&ops, 200, &["failures", unreachable, &through]).await;
        let line = worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
        assert!(line.contains(unreachable) && line.contains(&through), "{line}");
        let line = worker.wait_for_line(|line| line.contains(r#""event":"no_tunnel""#), SOON).await;
        let named = format!("the HTTP proxy {} cannot be reached: Connection refused", proxy.address());
        assert!(line.contains(&named), "{line}");
        worker
            .wait_for_line(
                |line| line.contains(r#""event":"probe""#) && line.contains(r#""ping":"failed""#),
                SOON,
            )
            .await;
        place.assert_no_dead_letter().await;
        proxy.run(OPEN).await;
        let all = outcomes.wait_count(1 + COUNT, SOON).await;
        assert!(all.iter().all(|outcome| outcome.json()["status"] == "unlocked"));
        assert!(
            all.iter()
                .all(|outcome| outcome.json()["attempts"].as_u64().is_some_and(|attempts| attempts <= 2))
        );
        place.assert_no_dead_letter().await;
        worker.signal(kit::Signal::TERM);
        assert!(worker.wait_exit(SOON).await.success());
    });
}

#[test]
fn a_proxy_that_forbids_the_tunnel_is_an_endpoint_fault_and_one_that_does_not_reach_trackfinity_is_none() {
    kit::run(async |ctx| {
        let place = Place::new(&ctx);
        let mut proxy = Tinyproxy::start(&ctx, CLOSED).await;
        let ops = format!("127.0.0.1:{}", kit::free_port());
        let url = proxy_url(&proxy, "");
        let through_proxy = |program: Program| program.env("UNLOCKER__TRACKFINITY__PROXY", &url);
        let program = through_proxy(place.worker()).env("UNLOCKER__OPS__LISTEN", &ops);
        let checked = check(&ctx, through_proxy(place.program("check"))).await;
        let fault = find(&checked, "Trackfinity");
        assert!(
            text(&fault["detail"])
                .ends_with(&format!("the HTTP proxy {} answered 403 to CONNECT", proxy.address()))
        );
        assert!(text(&fault["remedy"]).starts_with("Let the proxy's rules allow CONNECT"), "{fault}");
        let (worker, outcomes) = place.start(program).await;
        place.publish(40).await;
        paused(&ops, 503, &["endpoint_fault", "the HTTP proxy answered 403"]).await;
        assert!(outcomes.is_empty());
        // Now it lets tunnels through, and all at once Trackfinity is not there.
        proxy.run(OPEN).await;
        let all = outcomes.wait_count(40, SOON).await;
        assert!(all.iter().all(|outcome| outcome.json()["attempts"] == 1));
        place.assert_no_dead_letter().await;
        worker.signal(kit::Signal::TERM);
        assert!(worker.wait_exit(SOON).await.success());

        let nowhere = format!("https://127.0.0.1:{}", kit::free_port());
        let program = through_proxy(place.worker())
            .env("UNLOCKER__TRACKFINITY__BASE_URL", nowhere)
            .env("UNLOCKER__OPS__LISTEN", &ops);
        let (_worker, _outcomes) = place.start(program).await;
        place.publish(20).await;
        paused(
            &ops,
            200,
            &["failures", "the HTTP proxy answered 500", "Check whether the proxy reaches Trackfinity"],
        )
        .await;
    });
}
