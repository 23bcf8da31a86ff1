//! What people get wrong, and what the program says then. `mistakes/snapshot.txt` has every message;
//! read it from top to bottom. `UPDATE_SNAPSHOTS=1 cargo test --test it mistakes` writes it again.

mod cases;
mod mistake;
mod places;
mod rules;

use std::path::Path;

use futures_util::{StreamExt, stream};

use self::places::Places;

/// The most commands at once.
const AT_ONCE: usize = 8;

#[test]
fn every_mistake_is_answered_by_what_is_wrong_and_what_to_do() {
    kit::run(async |ctx| {
        let places = Places::prepare(&ctx).await;
        let groups = cases::all();
        let count: usize = groups.iter().map(|(_, mistakes)| mistakes.len()).sum();
        assert!(count >= 80, "{count} mistakes");
        let mut text = String::from(HEADER);
        let mut faults = Vec::new();
        for (title, mistakes) in &groups {
            text.push_str(&format!("\n\n==== {title} ====\n"));
            let answers = stream::iter(mistakes).map(|mistake| mistake.commit(&ctx, &places));
            let answers: Vec<_> = answers.buffered(AT_ONCE).collect().await;
            for (mistake, answer) in mistakes.iter().zip(&answers) {
                text.push_str(&format!("\n{answer}"));
                faults.extend(rules::broken(answer).map(|rule| format!("{}: {rule}", mistake.what)));
            }
        }
        places.remove().await;
        compare(&text);
        assert!(faults.is_empty(), "{faults:#?}");
    });
}

const HEADER: &str = "\
What people get wrong, and what the program says then. Tests write this file and compare it:
UPDATE_SNAPSHOTS=1 cargo test --test it mistakes

The settings that a mistake is not about are right. HOST, PORT and the like stand for what differs from run to
run.";

/// Compares the text with the snapshot, or writes the snapshot.
fn compare(text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mistakes/snapshot.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).expect("the snapshot is written");
        return;
    }
    let snapshot = std::fs::read_to_string(&path).expect("the snapshot");
    let (now, before) = (paragraphs(text), paragraphs(&snapshot));
    let changed: Vec<_> = now.iter().filter(|paragraph| !before.contains(paragraph)).collect();
    let gone: Vec<_> = before.iter().filter(|paragraph| !now.contains(paragraph)).collect();
    assert!(
        text == snapshot,
        "the messages differ from {}.\nnow:\n{changed:#?}\nin the snapshot:\n{gone:#?}\n\
         UPDATE_SNAPSHOTS=1 cargo test --test it mistakes writes it again",
        path.display()
    );
}

fn paragraphs(text: &str) -> Vec<&str> {
    text.split("\n## ").collect()
}
