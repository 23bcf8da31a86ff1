//! A plan: an action and a fixed list of dead letters.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{dead_letter::DeadLetterId, options::DiscardReason};

/// Hex digits of a digest.
const DIGEST_DIGITS: usize = 12;

/// What to do with dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Publish each as a request again.
    Replay,
    /// Give each up; its outcome is `discarded`.
    Discard {
        /// Why; it becomes the reason of the outcome.
        reason: DiscardReason,
    },
}

impl Action {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard { .. } => "discard",
        }
    }

    /// The reason of a discard.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Replay => None,
            Self::Discard { reason } => Some(reason.as_str()),
        }
    }
}

/// An action and the dead letters it applies to, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Plan {
    /// Identifies this action with these dead letters.
    pub digest: String,
    #[serde(flatten)]
    pub action: Action,
    pub ids: Vec<DeadLetterId>,
}

impl Plan {
    pub fn new(action: Action, ids: Vec<DeadLetterId>) -> Self {
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

    pub(super) fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Decodes a plan. `None` if these bytes are not a plan or do not match their digest.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Stored {
            digest: String,
            #[serde(flatten)]
            action: Action,
            ids: Vec<String>,
        }
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        let ids = stored.ids.iter().map(|id| DeadLetterId::from(id.as_str())).collect();
        let plan = Self::new(stored.action, ids);
        (plan.digest == stored.digest).then_some(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<DeadLetterId> {
        ids.iter().map(|id| DeadLetterId::from(*id)).collect()
    }

    #[test]
    fn a_digest_identifies_the_action_its_reason_and_the_dead_letters_in_their_order() {
        let discard = |reason: &str| Action::Discard { reason: reason.parse().expect("a reason") };
        let plans = [
            Plan::new(Action::Replay, ids(&["a", "b"])),
            Plan::new(Action::Replay, ids(&["b", "a"])),
            Plan::new(Action::Replay, ids(&["a"])),
            Plan::new(discard("x"), ids(&["a", "b"])),
            Plan::new(discard("y"), ids(&["a", "b"])),
        ];
        for (n, plan) in plans.iter().enumerate() {
            assert_eq!(Plan::decode(&plan.encode().expect("JSON")).as_ref(), Some(plan));
            assert!(plans.iter().skip(n + 1).all(|other| other.digest != plan.digest));
        }
    }

    #[test]
    fn a_plan_that_was_changed_is_rejected() {
        let plan = Plan::new(Action::Replay, ids(&["a", "b"]));
        let bytes = String::from_utf8(plan.encode().expect("JSON")).expect("UTF-8").replace("\"b\"", "\"c\"");
        assert_eq!(Plan::decode(bytes.as_bytes()), None);
    }
}
