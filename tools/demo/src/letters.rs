//! The dead letters, looked at in a way that changes nothing.

use testbed::options::BasicGetOptions;
use testbed::{Amqp, Message};

use crate::cases::Case;
use crate::stage::DEAD;
use crate::table::{Align, Table};

pub struct Letter {
    id: String,
    status: String,
    reason: String,
    detail: String,
    body: Vec<u8>,
}

impl Letter {
    fn read(message: Message) -> Self {
        let header = |name| message.text_header(name).unwrap_or_else(|| "-".into());
        Self {
            id: header("unlocker-request-id"),
            status: header("unlocker-status"),
            reason: header("unlocker-reason"),
            detail: header("unlocker-detail"),
            body: message.body,
        }
    }
}

/// Takes all letters and acknowledges none: closing the channel gives them back in their order.
pub async fn look(amqp: &Amqp) -> Vec<Letter> {
    let channel = amqp.channel().await;
    let mut letters = Vec::new();
    loop {
        let got = channel.basic_get(DEAD.into(), BasicGetOptions { no_ack: false }).await;
        match got.expect("the queue of the dead letters can be read") {
            Some(got) => letters.push(Letter::read(got.delivery.into())),
            None => break,
        }
    }
    channel.close(200, "looked".into()).await.expect("a channel closes");
    letters
}

pub fn print(letters: &[Letter]) {
    println!("\nDead letters, oldest first (queue {DEAD}):\n");
    let table = Table::new([
        ("id", 9, Align::Left),
        ("status", 9, Align::Left),
        ("reason", 24, Align::Left),
        ("detail", 6, Align::Left),
    ]);
    table.print_head();
    for letter in letters {
        let detail = shortened(&letter.detail, 60);
        table.print(&[letter.id.clone(), letter.status.clone(), letter.reason.clone(), detail]);
    }
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// How what is left of a request differs from what should be.
pub fn fault(case: &Case, letters: &[Letter]) -> Option<String> {
    let name = case.name;
    let mut of_case = letters.iter().filter(|letter| letter.id == case.id);
    match (of_case.next(), of_case.next()) {
        (None, _) => case.dies().then(|| format!("{name}: no dead letter")),
        (Some(_), Some(_)) => Some(format!("{name}: more than one dead letter")),
        (Some(_), None) if !case.dies() => {
            Some(format!("{name}: a dead letter, though it should be unlocked"))
        }
        (Some(letter), None) => {
            let same = letter.status == case.expected.status
                && Some(letter.reason.as_str()) == case.expected.reason
                && letter.body == case.body;
            (!same).then(|| format!("{name}: its dead letter says {}, {}", letter.status, letter.reason))
        }
    }
}
