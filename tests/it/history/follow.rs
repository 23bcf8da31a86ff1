//! Outcomes as they come: `unlocker history --follow`.

use kit::{Answer, Context, NodeOptions, Process};
use trackfinity_unlocker::message::Status;

use super::{channel, declare, history, outcome, publish};
use crate::world::{SOON, World};

#[test]
fn follow_prints_what_comes() {
    kit::run(async |ctx| {
        let world = World::start_with(ctx, &[("HISTORY__ENABLED", "true")], |_| Answer::unlocked()).await;
        let program = history(world.ctx.amqp_url()).args(["--follow", "--json"]);
        let follower = world.ctx.start(&program);
        let mut last = 0;
        // Until it follows, nothing comes: so one is published again and again.
        kit::eventually("the follower prints", SOON, async || {
            last += 1;
            world.unlock(&last.to_string()).await;
            if follower.stdout().is_empty() { Err("nothing yet") } else { Ok(()) }
        })
        .await;
        world.unlock("the last").await;
        let mark = r#""request_id":"the last""#;
        kit::eventually("the last outcome", SOON, async || {
            if follower.stdout().iter().any(|line| line.contains(mark)) {
                Ok(())
            } else {
                Err(follower.stdout().join("\n"))
            }
        })
        .await;
        follower.signal(kit::Signal::TERM);
        assert_eq!(follower.wait_exit(SOON).await.code(), Some(0));
    });
}

/// Starts to follow, and waits until it does.
async fn start(ctx: &Context) -> Process {
    let follower = ctx.start(&history(ctx.amqp_url()).args(["--follow", "--json"]));
    let amqp = ctx.amqp().await;
    let publishing = channel(&amqp).await;
    kit::eventually("the follower prints", SOON, async || {
        publish(&publishing, &outcome(0, "{}", Status::Invalid, 0), false).await;
        if follower.stdout().is_empty() { Err("nothing yet") } else { Ok(()) }
    })
    .await;
    follower
}

/// Publishes over a connection of its own, which a broken one does not stop.
async fn publish_now(ctx: &Context, number: usize) {
    let amqp = ctx.amqp().await;
    publish(&channel(&amqp).await, &outcome(number, "{}", Status::Invalid, 0), false).await;
}

/// How often each outcome but the first was printed, in order.
fn printed(follower: &Process) -> Vec<String> {
    let ids = follower.stdout().into_iter().map(|line| {
        let outcome: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        outcome["request_id"].as_str().expect("an id").to_owned()
    });
    ids.filter(|id| id != "r-0").collect()
}

async fn wait_printed(follower: &Process, ids: &[&str]) {
    kit::eventually("printed", SOON * 2, async || match printed(follower) {
        printed if printed == ids => Ok(()),
        printed => Err(format!("{printed:?}, {:?}", follower.stderr())),
    })
    .await;
}

#[test]
fn a_follower_acknowledges_few_outcomes_too_so_that_no_timeout_ends_it() {
    kit::run_on_own_node(NodeOptions::default(), async |ctx| {
        declare(&ctx.amqp().await).await;
        let follower = start(&ctx).await;
        publish_now(&ctx, 1).await;
        wait_printed(&follower, &["r-1"]).await;
        // What stays unacknowledged for `consumer_timeout` ends the channel.
        kit::eventually("nothing is unacknowledged", SOON, async || {
            let fields = ["list_channels", "--quiet", "name", "consumer_count", "messages_unacknowledged"];
            let channels = ctx.node().rabbitmqctl(&fields).await.expect("listed");
            let follows = |line: &&str| line.split_whitespace().rev().nth(1) == Some("1");
            match channels.lines().find(follows) {
                Some(line) if line.ends_with("\t0") => Ok(()),
                _ => Err(channels.clone()),
            }
        })
        .await;
    });
}

#[test]
fn a_follower_goes_on_where_it_was_after_its_connection_is_lost() {
    kit::run_on_own_node(NodeOptions::default(), async |ctx| {
        declare(&ctx.amqp().await).await;
        let follower = start(&ctx).await;
        publish_now(&ctx, 1).await;
        wait_printed(&follower, &["r-1"]).await;
        ctx.node().close_all_connections().await;
        // Perhaps before it is connected again.
        publish_now(&ctx, 2).await;
        wait_printed(&follower, &["r-1", "r-2"]).await;
        assert!(follower.stderr().concat().contains("It goes on where it was"), "{:?}", follower.stderr());
        ctx.vhost().management().delete_queue(super::STREAM).await;
        assert_eq!(follower.wait_exit(SOON).await.code(), Some(1));
        assert!(follower.stderr().concat().contains("there is no history"), "{:?}", follower.stderr());
    });
}
