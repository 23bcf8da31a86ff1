//! Files of the gateway's clients.

use proptest::prelude::*;
use tempfile::TempDir;
use trackfinity_unlocker::gateway::Clients;

use super::Checked;

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
                let lines = || content.split(|byte| *byte == b'\n');
                prop_assert!(!error.faults.is_empty() && error.faults.len() <= lines().count());
                let said = error.to_string();
                for line in lines().filter(|line| line.len() >= 24) {
                    let line = String::from_utf8_lossy(line);
                    let line = line.trim_end();
                    // Blanks, or what every message says, is no secret.
                    prop_assert!(line.len() < 24 || !said.contains(line), "{said}");
                }
                for fault in error.faults {
                    prop_assert!(!fault.wrong.is_empty() && !fault.remedy.is_empty());
                    prop_assert!(fault.line.is_none_or(|line| (1..=content.len() + 1).contains(&line)));
                }
            }
        }
        Ok(())
    })
}
