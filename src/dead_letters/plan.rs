//! A plan: an action and a fixed list of dead letters.

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{dead_letter::DeadLetterId, options::DiscardReason};
use crate::message::Correction;

/// Hex digits of a digest.
const DIGEST_DIGITS: usize = 12;

/// What to do with dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Publish each as a request again.
    Replay {
        /// What is changed in each. Only the names of what it changes are shown, because its values
        /// may identify a customer.
        #[serde(rename = "set", serialize_with = "names", skip_serializing_if = "Correction::is_empty")]
        #[schema(value_type = Vec<String>, required = false)]
        correction: Correction,
    },
    /// Give each up; its outcome is `discarded`.
    Discard {
        /// Why; it becomes the reason of the outcome.
        reason: DiscardReason,
    },
}

fn names<S: Serializer>(correction: &Correction, serializer: S) -> Result<S::Ok, S::Error> {
    correction.fields().serialize(serializer)
}

impl Action {
    /// A replay that changes nothing.
    pub fn replay() -> Self {
        Self::Replay { correction: Correction::default() }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Replay { .. } => "replay",
            Self::Discard { .. } => "discard",
        }
    }

    /// The reason of a discard.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Replay { .. } => None,
            Self::Discard { reason } => Some(reason.as_str()),
        }
    }

    /// What a replay changes; it may be nothing.
    pub fn correction(&self) -> Option<&Correction> {
        match self {
            Self::Replay { correction } => Some(correction),
            Self::Discard { .. } => None,
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

/// A plan as it is stored: with the whole correction.
#[derive(Serialize, Deserialize)]
struct StoredPlan {
    digest: String,
    #[serde(flatten)]
    action: StoredAction,
    ids: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum StoredAction {
    Replay {
        #[serde(default, skip_serializing_if = "Correction::is_empty")]
        correction: Correction,
    },
    Discard {
        reason: DiscardReason,
    },
}

impl Plan {
    pub fn new(action: Action, ids: Vec<DeadLetterId>) -> Self {
        let mut hash = Sha256::new();
        hash.update(action.name());
        hash.update(b"\n");
        hash.update(action.reason().unwrap_or_default());
        if let Some(correction) = action.correction().filter(|correction| !correction.is_empty()) {
            hash.update(b"\nset ");
            hash.update(correction.canonical());
        }
        for id in &ids {
            hash.update(b"\n");
            hash.update(id.as_str());
        }
        let mut digest = format!("{:x}", hash.finalize());
        digest.truncate(DIGEST_DIGITS);
        Self { digest, action, ids }
    }

    /// Encodes the plan for storing it, with the whole correction.
    ///
    /// # Errors
    /// Never: what a plan has can be written as JSON.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let action = match self.action.clone() {
            Action::Replay { correction } => StoredAction::Replay { correction },
            Action::Discard { reason } => StoredAction::Discard { reason },
        };
        let ids = self.ids.iter().map(ToString::to_string).collect();
        serde_json::to_vec(&StoredPlan { digest: self.digest.clone(), action, ids })
    }

    /// Decodes a plan. `None` if these bytes are not a plan, or not the only one with their digest.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let stored: StoredPlan = serde_json::from_slice(bytes).ok()?;
        let action = match stored.action {
            StoredAction::Replay { correction } => Action::Replay { correction },
            StoredAction::Discard { reason } => Action::Discard { reason },
        };
        // The digest would be that of two ids.
        if stored.ids.iter().any(|id| id.contains('\n')) {
            return None;
        }
        let ids = stored.ids.iter().map(|id| DeadLetterId::from(id.as_str())).collect();
        let plan = Self::new(action, ids);
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
        let corrected = |field, value| {
            let mut correction = Correction::default();
            correction.set(field, value).expect("a field");
            Action::Replay { correction }
        };
        let plans = [
            Plan::new(Action::replay(), ids(&["a", "b"])),
            Plan::new(Action::replay(), ids(&["b", "a"])),
            Plan::new(Action::replay(), ids(&["a"])),
            Plan::new(discard("x"), ids(&["a", "b"])),
            Plan::new(discard("y"), ids(&["a", "b"])),
            Plan::new(corrected("customer_id", "1"), ids(&["a", "b"])),
            Plan::new(corrected("customer_id", "2"), ids(&["a", "b"])),
            Plan::new(corrected("customer_id", ""), ids(&["a", "b"])),
            Plan::new(corrected("orderid", "1"), ids(&["a", "b"])),
            Plan::new(corrected("content_type", "1"), ids(&["a", "b"])),
        ];
        for (n, plan) in plans.iter().enumerate() {
            assert_eq!(Plan::decode(&plan.encode().expect("JSON")).as_ref(), Some(plan));
            assert!(plans.iter().skip(n + 1).all(|other| other.digest != plan.digest));
        }
    }

    #[test]
    fn a_plan_that_was_changed_is_rejected() {
        let plan = Plan::new(Action::replay(), ids(&["a", "b"]));
        let bytes = String::from_utf8(plan.encode().expect("JSON")).expect("UTF-8").replace("\"b\"", "\"c\"");
        assert_eq!(Plan::decode(bytes.as_bytes()), None);
    }

    /// Who may write to the queue of plans could store something else than what was shown.
    #[test]
    fn nothing_else_is_read_under_the_digest_of_a_plan() {
        let forged = |plan: &Plan, rest: &str| {
            let forged = format!(r#"{{"digest":"{}","action":"replay",{rest}}}"#, plan.digest);
            Plan::decode(forged.as_bytes())
        };
        let two = Plan::new(Action::replay(), ids(&["a", "b"]));
        assert_eq!(forged(&two, r#""ids":["a","b"]"#).as_ref(), Some(&two));
        assert_eq!(forged(&two, r#""ids":["a\nb"]"#), None, "one id with a line break");

        let mut correction = Correction::default();
        correction.set("customer_id", "1").expect("set");
        correction.set("orderid", "2").expect("set");
        let plan = Plan::new(Action::Replay { correction }, ids(&["a"]));
        let set = |identifiers: &str| {
            forged(&plan, &format!(r#""ids":["a"],"correction":{{"identifiers":{{{identifiers}}}}}"#))
        };
        assert_eq!(set(r#""customer_id":"1","orderid":"2""#).as_ref(), Some(&plan));
        assert_eq!(set(r#""customer_id 1:1\norderid":"2""#), None, "a field that there is not");
    }

    /// A plan that a version without corrections has stored, and the digest that it gave.
    #[test]
    fn a_stored_plan_without_a_correction_stays_as_it_was() {
        let plan = Plan::new(Action::replay(), ids(&["a", "b"]));
        let stored = format!(r#"{{"digest":"{}","action":"replay","ids":["a","b"]}}"#, plan.digest);
        assert_eq!(plan.encode().expect("JSON"), stored.as_bytes());
        assert_eq!(plan.digest, "182eaac02757");
        assert_eq!(Plan::decode(stored.as_bytes()), Some(plan));
    }

    #[test]
    fn people_see_what_a_plan_changes_and_no_value() {
        let mut correction = Correction::default();
        correction.set("customer_id", "191").expect("set");
        correction.set_body(b"{}".to_vec()).expect("set");
        let plan = Plan::new(Action::Replay { correction }, ids(&["a"]));
        let json = serde_json::to_value(&plan).expect("JSON");
        assert_eq!(json["set"], serde_json::json!(["customer_id", "body"]));
        let stored = String::from_utf8(plan.encode().expect("JSON")).expect("UTF-8");
        let changed = stored.replace("191", "192");
        assert_ne!(changed, stored);
        assert_eq!(Plan::decode(changed.as_bytes()), None, "the digest covers the correction");
    }
}
