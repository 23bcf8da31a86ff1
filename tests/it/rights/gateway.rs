//! The permissions of the gateway: enough to publish requests and to wait for their outcomes, and for
//! nothing else.

use super::*;
use crate::{
    gateway::world::{Gateway, json},
    world::REQUESTS,
};

#[test]
fn a_gateways_user_publishes_and_waits_for_the_outcome_by_direct_reply_to() {
    kit::run(async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let user = User::create(&ctx, "gateway").await;
        user.grant(&granted("gateway")).await;
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let gateway = Gateway::start(&ctx, &user.url(), &[]).await;
        let answer = gateway.post(json(r#"{"customer_id":"191"}"#).header("prefer", "wait=20")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["status"], "unlocked");
        let gateway = gateway.process;
        gateway.signal(kit::Signal::TERM);
        assert!(gateway.wait_exit(SOON).await.success());
        let refused: Vec<_> =
            gateway.stderr().into_iter().filter(|line| line.contains("refused for user")).collect();
        assert!(refused.is_empty(), "{refused:#?}");

        let check = ctx.start(&bare(&user.url(), &["check", "--role", "gateway"]));
        assert!(check.wait_exit(SOON).await.success(), "{:#?}", check.stdout());
        user.delete().await;
    });
}

#[test]
fn a_gateways_user_may_do_nothing_else() {
    kit::run(async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let user = User::create(&ctx, "gateway").await;
        user.grant(&granted("gateway")).await;
        // A worker's rights, each by a method that changes nothing. Those of an operator are among them, but
        // for the queues that it declares.
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let check = check(&ctx, &user.url(), &trackfinity, true).await;
        let missing = failures(&check);
        for right in [
            format!("read on queue {REQUESTS},"),
            format!("write on exchange {RESULTS},"),
            format!("write on exchange {DEAD},"),
            format!("write on exchange {EXCHANGE}.retry,"),
            "write on exchange amq.default,".to_owned(),
            format!("configure on queue {DEAD},"),
        ] {
            assert!(missing.iter().any(|line| line.contains(&right)), "{right} is granted: {missing:#?}");
        }
        let write = format!("write on exchange {EXCHANGE},");
        assert!(!missing.iter().any(|line| line.contains(&write)), "{missing:#?}");
        user.delete().await;
    });
}

#[test]
fn a_gateway_that_may_not_publish_is_told_the_right_that_it_lacks() {
    kit::run(async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let user = User::create(&ctx, "gateway").await;
        user.grant(&["^$", r"^trackfinity\.other$", "^$"].map(ToOwned::to_owned)).await;
        let check = ctx.start(&bare(&user.url(), &["check", "--role", "gateway"]));
        assert_eq!(check.wait_exit(SOON).await.code(), Some(1));
        names_alone(&check, "write on exchange", EXCHANGE);
        let [configure, write, read] = granted("gateway");
        let line = format!("'{configure}' '{write}' '{read}'");
        assert!(check.stdout().iter().any(|printed| printed.contains(&line)), "{:#?}", check.stdout());
        user.delete().await;
    });
}
