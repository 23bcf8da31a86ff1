//! The targets of tests/fuzz for libFuzzer: one program in `fuzz_targets` for each.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../../tests/fuzz/targets/mod.rs"]
pub mod targets;

/// Ends the process if the check fails: libFuzzer then keeps the input.
pub fn prove(check: fn(&[u8]) -> targets::Checked, bytes: &[u8]) {
    if let Err(error) = check(bytes) {
        panic!("{error}");
    }
}
