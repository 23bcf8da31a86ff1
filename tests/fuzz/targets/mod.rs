//! What the random targets prove, once for each: tests/fuzz calls these checks with inputs that it makes up by
//! pattern, fuzz/ with those that libFuzzer finds by coverage. A named `mod.rs`, because fuzz/ includes it by
//! its path.

pub mod answers;
pub mod bodies;
pub mod clients;
pub mod cookies;
pub mod corrections;
pub mod gateway;
pub mod headers;
pub mod logins;
pub mod plans;
pub mod retry_after;
pub mod signatures;
pub mod text;
pub mod wire_properties;

use std::{fmt, io::Write};

use proptest::test_runner::TestCaseError;

pub type Checked = Result<(), TestCaseError>;

/// A target's name, which fuzz/ and its folder of seeds share, and its check of an input in bytes.
pub type Target = (&'static str, fn(&[u8]) -> Checked);

/// All targets of fuzz/.
pub const ALL: [Target; 12] = [
    ("a_correction_sets_what_it_says_and_leaves_all_else", corrections::check_bytes),
    ("any_answer_is_classified_as_the_contract_says", answers::check_bytes),
    ("any_body_is_a_request_or_a_fault", bodies::check_bytes),
    ("any_clients_file_is_read_or_its_faults_show_no_secret", clients::check_bytes),
    ("any_headers_are_read_and_their_copies_read_the_same", headers::check_bytes),
    ("any_http_request_is_answered_and_a_refusal_says_why", gateway::check_bytes),
    ("any_login_is_read_or_its_faults_show_no_secret", logins::check_bytes),
    ("any_properties_are_read_as_lapin_reads_them", wire_properties::check_bytes),
    ("any_retry_after_is_read_or_ignored", retry_after::check_bytes),
    ("no_other_plan_has_the_digest_of_a_plan", plans::check_bytes),
    ("only_a_cookie_that_was_given_is_a_session", cookies::check_bytes),
    ("only_a_signature_of_these_bytes_is_accepted", signatures::check_bytes),
];

/// Bytes, shown as text.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).expect("written");
    encoder.finish().expect("finished")
}
