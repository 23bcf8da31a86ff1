//! Finds dead letters by anything that people know of a request.

use super::{
    DeadLetters, Listing,
    audit::Actor,
    dead_letter::{DeadLetter, DeadLetterSummary},
    error::Error,
    oldest::{AgeKey, Limit, Sorted},
    scan::IdMode,
};

/// At most this many are found at once; the newest ones.
const MAX_FOUND: usize = 50;

impl DeadLetters {
    /// Lists the dead letters that have this text as an identifier of their customer, subscription or order, or
    /// as the id of the request, the trace or the dead letter itself. No more than fifty, the newest.
    ///
    /// # Errors
    /// If the queue cannot be browsed.
    pub async fn search(&self, actor: &Actor, text: &str) -> Result<Listing<DeadLetterSummary>, Error> {
        let mut found = Sorted::new(Limit::Newest(MAX_FOUND));
        let visit = |dead_letter: DeadLetter| {
            if has(&dead_letter, text) {
                found.add(AgeKey::new(&dead_letter.summary), dead_letter.summary);
            }
        };
        let coverage = self.browse(actor, "browse", IdMode::Compute, visit).await?;
        Ok(Listing { count: found.count(), dead_letters: found.into_vec(), coverage })
    }
}

fn has(dead_letter: &DeadLetter, text: &str) -> bool {
    let DeadLetterSummary { id, request_id, trace_id, .. } = &dead_letter.summary;
    if id.as_str() == text || [request_id, trace_id].into_iter().flatten().any(|own| own == text) {
        return true;
    }
    // Most bodies need not be decoded.
    let is_compressed = dead_letter.properties.lossy().content_encoding().is_some();
    let may_have =
        is_compressed || contains(&dead_letter.body, text.as_bytes()) || dead_letter.body.contains(&b'\\');
    may_have
        && dead_letter
            .envelope()
            .and_then(|envelope| envelope.request.ok())
            .is_some_and(|request| request.identifiers().given().any(|(_, value)| value == text))
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|part| part == text)
}
