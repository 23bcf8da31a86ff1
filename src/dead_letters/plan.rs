//! What is to be done with which letters, frozen.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::letter::LetterId;

/// Hex digits of a digest.
const DIGEST_DIGITS: usize = 12;

/// What is to be done with letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Each becomes a request again.
    Replay,
    /// Each is given up, and its outcome is `discarded`.
    Discard {
        /// Why; it stands in the outcome.
        reason: String,
    },
}

impl Action {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard { .. } => "discard",
        }
    }

    /// The reason given for a discard.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Replay => None,
            Self::Discard { reason } => Some(reason),
        }
    }
}

/// Letters, oldest first, and what is to be done with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Plan {
    /// Stands for this very action with these very letters.
    pub digest: String,
    #[serde(flatten)]
    pub action: Action,
    pub ids: Vec<LetterId>,
}

impl Plan {
    #[must_use]
    pub fn new(action: Action, ids: Vec<LetterId>) -> Self {
        let mut hash = Sha256::new();
        hash.update(action.name());
        hash.update(b"\n");
        hash.update(action.reason().unwrap_or_default());
        for id in &ids {
            hash.update(b"\n");
            hash.update(id.as_str());
        }
        let mut digest = format!("{:x}", hash.finalize());
        digest.truncate(DIGEST_DIGITS);
        Self { digest, action, ids }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Texts alone: nothing that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The plan in these bytes, if they are one and are what their digest says.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Kept {
            digest: String,
            #[serde(flatten)]
            action: Action,
            ids: Vec<String>,
        }
        let kept: Kept = serde_json::from_slice(bytes).ok()?;
        let ids = kept.ids.iter().map(|id| LetterId::from(id.as_str())).collect();
        let plan = Self::new(kept.action, ids);
        (plan.digest == kept.digest).then_some(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<LetterId> {
        ids.iter().map(|id| LetterId::from(*id)).collect()
    }

    #[test]
    fn a_digest_stands_for_the_action_its_reason_and_the_letters_in_their_order() {
        let discard = |reason: &str| Action::Discard { reason: reason.to_owned() };
        let plans = [
            Plan::new(Action::Replay, ids(&["a", "b"])),
            Plan::new(Action::Replay, ids(&["b", "a"])),
            Plan::new(Action::Replay, ids(&["a"])),
            Plan::new(discard("x"), ids(&["a", "b"])),
            Plan::new(discard("y"), ids(&["a", "b"])),
        ];
        for (n, plan) in plans.iter().enumerate() {
            assert_eq!(Plan::decode(&plan.encode()).as_ref(), Some(plan));
            assert!(plans.iter().skip(n + 1).all(|other| other.digest != plan.digest));
        }
    }

    #[test]
    fn a_plan_that_was_tampered_with_is_none() {
        let plan = Plan::new(Action::Replay, ids(&["a", "b"]));
        let bytes = String::from_utf8(plan.encode()).expect("UTF-8").replace("\"b\"", "\"c\"");
        assert_eq!(Plan::decode(bytes.as_bytes()), None);
    }
}
