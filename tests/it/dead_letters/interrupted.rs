//! A replay that is killed at any point.

use std::collections::BTreeMap;

use super::*;
use crate::world::REQUESTS;

#[test]
fn a_replay_that_is_killed_loses_nothing_and_doubles_at_most_one() {
    kit::run_within(SOON * 4, async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        let count = 400;
        publish_dead_letters(&amqp, count).await;
        let mut kills = 0;
        let mut replayed = 0;
        while replayed < count as u32 && kills < 12 {
            let plan = plan(&ctx, &["replay"]).await;
            let digest = plan["digest"].as_str().expect("a digest").to_owned();
            let args = ["replay", "--confirm", &digest, "--rate", "5000/s", "--wait", "1ms", "--keep-going"];
            let replay = ctx.start(&command(&ctx, &args));
            // It works at full speed, and is killed at a point that differs each time.
            let target = replayed + 7 + kills * 3;
            kit::eventually("it has come further", A_WHILE, async || {
                amqp.ready_count(REQUESTS).await >= target || replay.try_exit().is_some()
            })
            .await;
            replay.kill9();
            replay.wait_exit(SOON).await;
            kills += 1;
            // Its connections are gone when all dead letters are either back or replayed.
            kit::eventually("nothing is held any more", SOON, async || {
                let dead = amqp.ready_count(DEAD).await;
                replayed = amqp.ready_count(REQUESTS).await;
                dead + replayed >= count as u32
            })
            .await;
        }
        let mut copies: BTreeMap<String, usize> = BTreeMap::new();
        let mut found = amqp.drain(DEAD).await;
        let left = found.len();
        found.extend(amqp.drain(REQUESTS).await);
        for message in &found {
            let id = message.properties.message_id().as_ref().expect("an id").to_string();
            *copies.entry(id).or_default() += 1;
        }
        assert_eq!(copies.len(), count, "dead letters are lost");
        let doubled = found.len() - count;
        println!("{kills} kills: {left} dead letters left, {doubled} doubled");
        assert!(doubled <= kills as usize, "{doubled} doubled by {kills} kills");
        assert!(kills > 5 && left < count, "{kills} kills, {left} left");
    });
}
