//! Random input for everything that reads what others wrote: bodies, responses, headers. Each target
//! runs for `FUZZ_SECONDS` (default 1) and prints its seed. With `FUZZ_SEED` it tries the same inputs
//! again, without a time limit. A failing input is shrunk and shown.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod answers;
mod corrections;
mod gateway;
mod headers;
mod requests;
mod seeds;
mod targets;

use std::time::{Duration, Instant};

use proptest::{
    collection::vec,
    prelude::*,
    string::string_regex,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

use self::targets::Checked;

/// Tries inputs until the time is up.
fn fuzz<S: Strategy>(target: &str, inputs: S, check: impl Fn(S::Value) -> Checked) {
    let given = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seed = given("FUZZ_SEED").unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let time = Duration::from_secs(given("FUZZ_SECONDS").unwrap_or(1));
    println!("{target}: FUZZ_SEED={seed} FUZZ_SECONDS={}", time.as_secs());

    let config =
        Config { cases: 64, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let (started, mut tried) = (Instant::now(), 0_u64);
    while started.elapsed() < time {
        // A runner cannot continue after its number of cases, so each batch has a new one.
        // The strong generator, unoptimised, would take most of the time.
        let mut batch = fastrand::Rng::with_seed(seed.wrapping_add(tried));
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &batch.u128(1..).to_le_bytes());
        match TestRunner::new_with_rng(config.clone(), rng).run(&inputs, &check) {
            Ok(()) => tried += u64::from(config.cases),
            Err(TestError::Fail(why, input)) => {
                panic!(
                    "{target}: after {tried} inputs of FUZZ_SEED={seed}: {why}\nthe input, shrunk: {input:#?}"
                )
            }
            Err(TestError::Abort(why)) => panic!("{target}: {why}"),
        }
    }
    println!("{target}: {tried} inputs");
}

/// Text that matches a pattern. A plain pattern would be parsed again for each text.
fn like(pattern: &str) -> impl Strategy<Value = String> + use<> {
    string_regex(pattern).expect("a pattern")
}

/// One change to bytes at one position.
#[derive(Clone, Debug)]
enum Change {
    Set(u8),
    Insert(Vec<u8>),
    Remove(usize),
    Repeat(usize),
    End,
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<u8>().prop_map(Change::Set),
        vec(any::<u8>(), 1..4).prop_map(Change::Insert),
        (1..8_usize).prop_map(Change::Remove),
        (1..20_usize).prop_map(Change::Repeat),
        Just(Change::End),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: Vec<(usize, Change)>) -> Vec<u8> {
    for (place, change) in changes {
        let at = place % (bytes.len() + 1);
        let until = |length: usize| (at + length).min(bytes.len());
        match change {
            Change::Set(byte) => bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
            Change::Insert(new) => drop(bytes.splice(at..at, new)),
            Change::Remove(length) => drop(bytes.drain(at..until(length))),
            Change::Repeat(length) => {
                let again = bytes[at..until(length)].to_vec();
                drop(bytes.splice(at..at, again));
            }
            Change::End => bytes.truncate(at),
        }
    }
    bytes
}

/// Mostly unchanged, sometimes with a few changes.
fn maybe_changed(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop_oneof![2 => Just(Vec::new()), 1 => vec((any::<usize>(), any_change()), 1..4)];
    (bytes, changes).prop_map(|(bytes, changes)| changed(bytes, changes))
}
