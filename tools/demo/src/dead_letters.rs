//! The dead letters, browsed: the queue stays as it is.

use testbed::options::BasicGetOptions;
use testbed::{Amqp, Message};

use crate::cases::Case;
use crate::stage::DEAD;
use crate::table::{Align, Table};

pub struct DeadLetter {
    id: String,
    status: String,
    reason: String,
    detail: String,
    body: Vec<u8>,
}

impl DeadLetter {
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

/// Takes all dead letters and acknowledges none: RabbitMQ requeues them in their order when the channel closes.
pub async fn browse(amqp: &Amqp) -> Vec<DeadLetter> {
    let channel = amqp.channel().await;
    let mut dead_letters = Vec::new();
    loop {
        let got = channel.basic_get(DEAD.into(), BasicGetOptions { no_ack: false }).await;
        match got.expect("the queue of the dead letters can be read") {
            Some(got) => dead_letters.push(DeadLetter::read(got.delivery.into())),
            None => break,
        }
    }
    channel.close(200, "browsed".into()).await.expect("a channel closes");
    dead_letters
}

pub fn print(dead_letters: &[DeadLetter]) {
    println!("\nDead letters, oldest first (queue {DEAD}):\n");
    let table = Table::new([
        ("id", 9, Align::Left),
        ("status", 9, Align::Left),
        ("reason", 24, Align::Left),
        ("detail", 6, Align::Left),
    ]);
    table.print_head();
    for dead_letter in dead_letters {
        let detail = shortened(&dead_letter.detail, 60);
        table.print(&[
            dead_letter.id.clone(),
            dead_letter.status.clone(),
            dead_letter.reason.clone(),
            detail,
        ]);
    }
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// How what is left of a request differs from what should be.
pub fn fault(case: &Case, dead_letters: &[DeadLetter]) -> Option<String> {
    let name = case.name;
    let mut of_case = dead_letters.iter().filter(|dead_letter| dead_letter.id == case.id);
    match (of_case.next(), of_case.next()) {
        (None, _) => case.dies().then(|| format!("{name}: no dead letter")),
        (Some(_), Some(_)) => Some(format!("{name}: more than one dead letter")),
        (Some(_), None) if !case.dies() => {
            Some(format!("{name}: a dead letter, though it should be unlocked"))
        }
        (Some(dead_letter), None) => {
            let same = dead_letter.status == case.expected.status
                && Some(dead_letter.reason.as_str()) == case.expected.reason
                && dead_letter.body == case.body;
            (!same).then(|| {
                format!("{name}: its dead letter says {}, {}", dead_letter.status, dead_letter.reason)
            })
        }
    }
}
