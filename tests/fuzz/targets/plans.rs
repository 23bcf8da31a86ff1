//! Plans, which wait in RabbitMQ until somebody confirms them by their digest.

use proptest::prelude::*;
use trackfinity_unlocker::{
    dead_letters::{Action, DeadLetterId, DiscardReason, plan::Plan},
    message::Correction,
};

use super::{Checked, text::Text};

/// The plan of the head, and what is stored in its place: the body, in which `{digest}` stands for its digest.
pub fn check_bytes(bytes: &[u8]) -> Checked {
    let text = Text::parse(bytes);
    let Some(action) = action(&text) else { return Ok(()) };
    let plan = Plan::new(action, text.all("id").map(DeadLetterId::from).collect());
    let stored = String::from_utf8_lossy(text.body).replace("{digest}", &plan.digest);
    check(&plan, stored.as_bytes())
}

fn action(text: &Text<'_>) -> Option<Action> {
    if let Some(reason) = text.get("discard") {
        return Some(Action::Discard { reason: reason.parse::<DiscardReason>().ok()? });
    }
    let mut correction = Correction::default();
    for change in text.all("set") {
        let (name, value) = change.split_once('=')?;
        correction.set(name, value).ok()?;
    }
    if let Some(body) = text.get("new-body") {
        correction.set_body(body.as_bytes().to_vec()).ok()?;
    }
    Some(Action::Replay { correction })
}

/// `stored`: what may have come in place of the plan.
pub fn check(plan: &Plan, stored: &[u8]) -> Checked {
    let encoded = plan.encode().expect("encodes");
    let decoded = Plan::decode(&encoded);
    // An id with a line break is none: its digest would be that of two ids.
    let is_usable = plan.ids.iter().all(|id| !id.as_str().contains('\n'));
    prop_assert_eq!(decoded.as_ref(), is_usable.then_some(plan));
    let Some(other) = Plan::decode(stored) else { return Ok(()) };
    prop_assert!(
        !is_usable || other.digest != plan.digest || other == *plan,
        "{other:?} has the digest of {plan:?}"
    );
    let again = Plan::decode(&other.encode().expect("encodes"));
    prop_assert_eq!(again, Some(other));
    Ok(())
}
