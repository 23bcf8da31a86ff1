//! Files of the gateway's clients.

use proptest::prelude::*;
use tempfile::TempDir;
use trackfinity_unlocker::gateway::Clients;

use super::{Checked, repeats_a_line};

thread_local! {
    static DIRECTORY: TempDir = tempfile::tempdir().expect("a directory");
}

/// `content`: of the file of the client `shop`.
pub fn check_bytes(content: &[u8]) -> Checked {
    DIRECTORY.with(|directory| {
        std::fs::write(directory.path().join("shop"), content).expect("written");
        match Clients::open(directory.path()) {
            Ok(clients) => {
                let names = clients.names();
                prop_assert!(matches!(names.as_slice(), [name] if &**name == "shop"), "{names:?}");
                prop_assert!(std::str::from_utf8(content).is_ok());
            }
            Err(error) => {
                let lines = content.split(|byte| *byte == b'\n').count();
                prop_assert!(!error.faults.is_empty() && error.faults.len() <= lines);
                let said = error.to_string();
                prop_assert!(!repeats_a_line(&said, content), "{said}");
                for fault in error.faults {
                    prop_assert!(!fault.wrong.is_empty() && !fault.remedy.is_empty());
                    prop_assert!(fault.line.is_none_or(|line| (1..=content.len() + 1).contains(&line)));
                }
            }
        }
        Ok(())
    })
}
