//! What the ledger must say for all to be right.

use std::collections::BTreeSet;

use crate::duplicates::Duplicates;
use crate::ledger::{Ledger, SHOWN, ids};
use crate::requests::{Kind, kind, message_id};

impl Ledger<'_> {
    /// All that is not as it should be.
    pub fn wrongs(&self, lost: &[u64], duplicates: &Duplicates) -> Vec<String> {
        let mut wrongs = self.complaints.clone();
        if !lost.is_empty() {
            wrongs.push(format!("{} lost: {}", lost.len(), ids(lost)));
        }
        if !self.interrupted {
            if self.unfinished() > 0 {
                wrongs.push(format!("{} requests have no outcome", self.unfinished()));
            }
            let left: usize = self.waiting.0.iter().map(|(_, count)| count).sum();
            if left > 0 {
                wrongs.push(format!("{left} messages are left in the queues"));
            }
            if !self.unconfirmed.is_empty() {
                wrongs.push(format!("{} publishes were never confirmed", self.unconfirmed.len()));
            }
        }
        if !duplicates.unexplained.is_empty() {
            let (count, ids) = (duplicates.unexplained.len(), ids(&duplicates.unexplained));
            wrongs.push(format!("{count} outcomes repeated beyond what the faults can explain: {ids}"));
        }
        wrongs.extend(self.heard.strange.iter().take(SHOWN).map(|body| format!("a strange outcome: {body}")));
        if !self.heard.too_soon.is_empty() {
            let (count, ids) = (self.heard.too_soon.len(), ids(&self.heard.too_soon));
            wrongs.push(format!("{count} outcomes came before their dead letters: {ids}"));
        }
        for (queue, missed) in self.missed.iter().filter(|(_, missed)| !missed.is_empty()) {
            wrongs.push(format!("{queue} has not got {} outcomes: {}", missed.len(), ids(missed)));
        }
        wrongs.extend(self.wrong_history());
        wrongs.extend(self.wrong_outcomes());
        wrongs.extend(self.wrong_dead_letters());
        wrongs
    }

    fn were_deliveries_limited(&self) -> bool {
        self.faults.iter().any(|fault| fault.what.starts_with("a policy limits deliveries"))
    }

    /// Outcomes that are not true.
    fn wrong_outcomes(&self) -> Vec<String> {
        let mut wrongs = Vec::new();
        for (&n, outcomes) in &self.heard.outcomes {
            let kind = kind(self.seed, n);
            for outcome in outcomes {
                let reason = outcome.reason.as_deref();
                let holds = match (outcome.status.as_str(), kind) {
                    ("unlocked", Kind::Good | Kind::Expiring | Kind::Shard | Kind::Forbidden) => {
                        reason.is_none() && self.install.unlocked(n)
                    }
                    ("refused", Kind::Refused) => reason == Some("http_400"),
                    ("refused", Kind::Forbidden) => reason == Some("http_403"),
                    ("invalid", Kind::Invalid) => matches!(reason, Some("malformed" | "no_identifier")),
                    ("invalid", Kind::Unreadable) => reason == Some("unreadable"),
                    ("abandoned", Kind::Expiring) if reason == Some("expired") => true,
                    ("abandoned", _) if reason == Some("delivery_limit") => self.were_deliveries_limited(),
                    ("abandoned", Kind::Invalid | Kind::Unreadable) => false,
                    ("abandoned", _) => reason.is_some_and(is_transient),
                    _ => false,
                };
                if !holds && self.was_published(n) {
                    let status = &outcome.status;
                    wrongs.push(format!("{}, {kind:?}, is said to be {status} {reason:?}", message_id(n)));
                } else if !self.was_published(n) {
                    wrongs.push(format!("an outcome of {}, which was never published", message_id(n)));
                }
            }
        }
        shortened(wrongs)
    }

    /// Dead letters that should not be, and dead letters and outcomes that do not belong together.
    fn wrong_dead_letters(&self) -> Vec<String> {
        let mut wrongs = Vec::new();
        let mut of_request: BTreeSet<(u64, &str)> = BTreeSet::new();
        for dead_letter in &self.dead_letters {
            let Some(status) = dead_letter.status.as_deref() else {
                wrongs.push(format!("crashed, dead-lettered by the broker: {}", dead_letter.shown));
                continue;
            };
            let is_forbidden = dead_letter.n.is_some_and(|n| kind(self.seed, n) == Kind::Forbidden);
            if is_endpoint_fault(&dead_letter.reason) && !(is_forbidden && dead_letter.reason == "http_403") {
                wrongs.push(format!(
                    "dead for an endpoint fault, {}: {}",
                    dead_letter.reason, dead_letter.shown
                ));
            }
            let outcomes = dead_letter.n.and_then(|n| self.heard.outcomes.get(&n));
            if outcomes.is_none_or(|outcomes| outcomes.iter().all(|outcome| outcome.status != status)) {
                // Its outcome may still have been on its way.
                let waits = dead_letter.n.is_some_and(|n| self.waiting.1.contains(&n));
                if !(self.interrupted && waits) {
                    wrongs.push(format!(
                        "a dead letter, {status}, without such an outcome: {}",
                        dead_letter.shown
                    ));
                }
            }
            of_request.extend(dead_letter.n.map(|n| (n, status)));
        }
        for (&n, outcomes) in &self.heard.outcomes {
            for outcome in outcomes {
                let status = outcome.status.as_str();
                if status != "unlocked" && !of_request.contains(&(n, status)) {
                    wrongs.push(format!("{} is {status}, and has no such dead letter", message_id(n)));
                }
            }
        }
        shortened(wrongs)
    }
}

fn is_transient(reason: &str) -> bool {
    let status = reason.strip_prefix("http_").and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(status) => status >= 500 && status != 501,
        None => matches!(reason, "timeout" | "connection" | "unexpected_reply" | "rate_limited"),
    }
}

fn is_endpoint_fault(reason: &str) -> bool {
    let status = reason.strip_prefix("http_").and_then(|status| status.parse::<u16>().ok());
    status.is_some_and(|status| matches!(status, 300..=399 | 401 | 403 | 405 | 407 | 501))
}

fn shortened(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > SHOWN {
        let rest = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("and {rest} more such"));
    }
    lines
}
