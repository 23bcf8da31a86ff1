#![no_main]

use trackfinity_unlocker_fuzz::{prove, targets::logins::check_bytes};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prove(check_bytes, bytes));
