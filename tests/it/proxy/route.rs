//! Which way calls take, and how `check` says it.

use kit::{Answer, Program, Tinyproxy, Trackfinity};
use serde_json::json;

use super::place::{OPEN, Place, WITH_LOGIN, check, find, proxy_url};
use crate::world::{SOON, text};

#[test]
fn the_usual_variables_name_the_proxy_and_its_exceptions() {
    kit::run(async |ctx| {
        let place = Place::new(&ctx);
        let proxy = Tinyproxy::start(&ctx, WITH_LOGIN).await;
        let address = format!("worker:pass-word@{}", proxy.address());
        let named = [
            ("HTTPS_PROXY", format!("http://{address}")),
            ("https_proxy", address),
            ("ALL_PROXY", proxy_url(&proxy, "worker:pass-word@")),
        ];
        for (n, (variable, value)) in named.iter().enumerate() {
            place.serve_one(&place.worker().env(variable, value)).await;
            kit::eventually("the proxy logs a tunnel", SOON, async || proxy.asked() == n + 1).await;
        }
        let (variable, value) = &named[0];
        for except in ["127.0.0.1", "10.0.0.0/8, 127.0.0.0/8", "*"] {
            let worker = place.worker().env(variable, value).env("NO_PROXY", except);
            place.serve_one(&worker).await;
        }
        // The setting comes first, and NO_PROXY does not apply to it.
        let other = Tinyproxy::start(&ctx, OPEN).await;
        let worker = place
            .worker()
            .env(variable, value)
            .env("NO_PROXY", "*")
            .env("UNLOCKER__TRACKFINITY__PROXY", proxy_url(&other, ""));
        place.serve_one(&worker).await;
        kit::eventually("the other proxy logs a tunnel", SOON, async || other.asked() == 1).await;
        assert_eq!(proxy.asked(), named.len());
    });
}

#[test]
fn plain_http_never_goes_through_a_proxy() {
    kit::run(async |ctx| {
        let place = Place::new(&ctx);
        let plain = Trackfinity::start(|_| Answer::unlocked());
        let proxy = Tinyproxy::start(&ctx, OPEN).await;
        let url = proxy_url(&proxy, "");
        let to_plain = |program: Program| {
            let program = program.env("UNLOCKER__TRACKFINITY__BASE_URL", plain.url());
            program.env("UNLOCKER__TRACKFINITY__CA_FILE", "")
        };
        for variable in
            ["UNLOCKER__TRACKFINITY__PROXY", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"]
        {
            place.serve_one(&to_plain(place.worker()).env(variable, &url)).await;
            let checked = check(&ctx, to_plain(place.program("check")).env(variable, &url)).await;
            let route = text(&find(&checked, "route to Trackfinity")["detail"]);
            assert!(route.starts_with("direct"), "{variable}: {route}");
        }
        let program = to_plain(place.program("check")).env("UNLOCKER__TRACKFINITY__PROXY", &url);
        let route = text(&find(&check(&ctx, program).await, "route to Trackfinity")["detail"]);
        assert!(
            route.contains("not through the proxy that trackfinity.proxy names: base_url is http://"),
            "{route}"
        );
        assert_eq!(proxy.asked(), 0);
    });
}

#[test]
fn check_says_which_way_calls_go_and_shows_no_login() {
    kit::run(async |ctx| {
        let place = Place::new(&ctx);
        let proxy = Tinyproxy::start(&ctx, WITH_LOGIN).await;
        let url = proxy_url(&proxy, "worker:pass-word@");
        let through = |source| format!("through the HTTP proxy {}, which {source} names", proxy.address());
        let rows = [
            ("UNLOCKER__TRACKFINITY__PROXY", through("trackfinity.proxy")),
            ("HTTPS_PROXY", through("HTTPS_PROXY")),
            ("NO_PROXY", "direct; it is on this machine".to_owned()),
        ];
        for (variable, expected) in rows {
            let checked = check(&ctx, place.program("check").env(variable, &url)).await;
            let route = find(&checked, "route to Trackfinity");
            assert_eq!((text(&route["detail"]), &route["ok"]), (expected, &json!(true)), "{variable}");
            assert_eq!(find(&checked, "Trackfinity")["ok"], true, "{checked:#}");
            let said = checked.to_string();
            assert!(!said.contains("pass-word"), "{said}");
            if variable != "NO_PROXY" {
                let address = "Trackfinity sees the address with which the proxy calls others";
                assert!(text(&route["remedy"]).starts_with(address), "{route}");
            }
            let settings = checked["settings"].as_array().expect("settings");
            let setting =
                settings.iter().find(|setting| setting["key"] == "trackfinity.proxy").expect("a key");
            let shown = if variable.starts_with("UNLOCKER") {
                url.replace("pass-word", "***")
            } else {
                "not set".into()
            };
            assert_eq!(setting["value"], shown);
        }
        let unusable =
            check(&ctx, place.program("check").env("ALL_PROXY", "socks5://u:pass-word@127.0.0.1:1")).await;
        let fault = find(&unusable, "Trackfinity");
        let expected = "the variable ALL_PROXY cannot be used: it is not the address of an HTTP proxy";
        assert!(text(&fault["detail"]).starts_with(expected), "{fault}");
        assert!(!unusable.to_string().contains("pass-word"));
    });
}
