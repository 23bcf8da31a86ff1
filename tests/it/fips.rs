//! The Cargo feature `fips`: `make test-fips` runs this, and what else uses TLS, with it.

use kit::{Answer, Trackfinity};
use serde_json::Value;

use crate::world::{SOON, start_worker, unlocker};

#[test]
fn a_build_with_the_fips_module_says_so_in_check_and_log() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let check = ctx.start(&unlocker(ctx.amqp_url(), &trackfinity.url()).args(["check", "--json"]));
        check.wait_exit(SOON).await;
        let document: Value = serde_json::from_str(&check.stdout().join("")).expect("JSON");
        let checks = document["checks"].as_array().expect("checks");
        let line = checks.iter().find(|check| check["name"] == "FIPS");
        assert_eq!(
            line.map(|line| line["ok"] == true),
            cfg!(feature = "fips").then_some(true),
            "{checks:#?}"
        );
        let worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let started = worker.wait_for_line(|line| line.contains(r#""event":"started""#), SOON).await;
        assert_eq!(started.contains(r#""fips":true"#), cfg!(feature = "fips"), "{started}");
    });
}
