//! The stream that keeps every outcome, as a witness: it must have what the listener has heard.

use std::time::Duration;

use crate::checker::What;
use crate::crew;
use crate::journal::Journal;
use crate::listener;
use crate::recorder::Recorder;
use crate::requests::SHOWN;

const SEARCH_TIMEOUT: Duration = Duration::from_secs(300);
/// More than any run has.
const LIMIT: &str = "100000000";

/// Records all outcomes in the stream, as the program finds them. If it does not, that is a complaint.
pub async fn record(urls: &str, recorder: &Recorder, journal: &Journal) {
    let search = crew::unlocker(urls).args(["history", "--json", "--limit", LIMIT]).start();
    let status = search.wait_exit(SEARCH_TIMEOUT).await;
    if !status.success() {
        let said = search.stderr().join(" ");
        journal.complain(format!("the history cannot be searched: {status}: {said}"));
    }
    let mut strange = Vec::new();
    for line in search.stdout() {
        match listener::read(None, line.as_bytes()) {
            Some((n, outcome)) => recorder.record(n, What::Kept(Box::new(outcome))),
            None => strange.push(line),
        }
    }
    for line in strange.iter().take(SHOWN) {
        journal.complain(format!("strange in the history: {line}"));
    }
}
