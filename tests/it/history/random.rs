//! Random outcomes, and random searches for them.
//!
//! `UNLOCKER_TEST_SEED` is another beginning than 17.

use std::collections::BTreeSet;

use trackfinity_unlocker::{
    history::Query,
    message::{Outcome, RecordedOutcome, Status, Timestamp},
};

use super::{HOUR, channel, declare, outcome, publish, search};
use crate::world::SOON;

struct Random(fastrand::Rng);

impl Random {
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.0.usize(..of.len())]
    }

    fn outcome(&mut self, number: usize) -> Outcome {
        let identifiers = self.pick(&[
            r#"{"customer_id":"1"}"#,
            r#"{"customer_id":"2"}"#,
            r#"{"subscription_id":"1"}"#,
            r#"{"customer_id":"1","orderid":"9"}"#,
            r#"{"customer_id":"3","subscription_id":"1","orderid":"9"}"#,
            "no JSON",
        ]);
        let mut outcome =
            outcome(number, identifiers, Status::ALL[self.0.usize(..5)], self.0.i64(0..2 * HOUR));
        outcome.replays = self.0.u32(0..2);
        outcome
    }

    fn query(&mut self, count: usize) -> Query {
        let mut text = |of: &[&str]| Some(self.pick(of).to_owned()).filter(|text| !text.is_empty());
        let (customer_id, subscription_id, orderid) =
            (text(&["", "", "1", "2", "3", "4"]), text(&["", "", "", "1"]), text(&["", "", "", "9"]));
        let request_id = (self.0.u8(0..6) == 0).then(|| format!("r-{}", self.0.usize(0..count)));
        let status = if self.0.bool() { Vec::new() } else { vec![Status::ALL[self.0.usize(..5)]] };
        let reason = if self.0.u8(0..4) > 0 { Vec::new() } else { vec!["http_401".to_owned()] };
        let ago = |hours: i64| Timestamp::from_millis(Timestamp::now().as_millis() - hours);
        let since = (self.0.u8(0..3) == 0).then(|| ago(self.0.i64(0..2 * HOUR)));
        let until = (self.0.u8(0..4) == 0).then(|| ago(self.0.i64(0..2 * HOUR)));
        Query { customer_id, subscription_id, orderid, request_id, status, reason, since, until }
    }
}

#[test]
fn every_search_finds_all_that_match_while_outcomes_keep_coming() {
    kit::run_within(SOON * 4, async |ctx| {
        let seed = std::env::var("UNLOCKER_TEST_SEED").map_or(17, |seed| seed.parse().expect("a number"));
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let amqp = ctx.amqp().await;
        declare(&amqp).await;
        let publishing = channel(&amqp).await;
        let mut published = Vec::new();
        for round in 0..12 {
            for _ in 0..random.0.usize(1..60) {
                let outcome = random.outcome(published.len());
                publish(&publishing, &outcome, random.0.u8(0..8) == 0).await;
                published.push(outcome);
            }
            for _ in 0..5 {
                let query = random.query(published.len());
                let later: Vec<_> = (0..5).map(|n| random.outcome(published.len() + n)).collect();
                let publish_later = async {
                    for outcome in &later {
                        publish(&publishing, outcome, false).await;
                    }
                };
                let (found, ()) = tokio::join!(search(&amqp, &query), publish_later);
                let found = found.expect("searched");
                let matching = |outcomes: &[Outcome]| -> Vec<String> {
                    let matches = |outcome: &&Outcome| {
                        let body = outcome.encode().expect("encodes");
                        query.matches(&RecordedOutcome::parse(&body).expect("one"))
                    };
                    outcomes.iter().filter(matches).map(|outcome| outcome.request_id.clone()).collect()
                };
                let (expected, new) = (matching(&published), matching(&later));
                let newer: BTreeSet<&String> = new.iter().collect();
                let mut seen: Vec<String> = found.into_iter().filter(|id| !newer.contains(id)).collect();
                seen.reverse();
                assert_eq!(seen, expected, "seed {seed}, round {round}: {query:?}");
                published.extend(later);
            }
        }
    });
}
