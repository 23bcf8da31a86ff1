//! Who takes the requests: the gateway or the bare loop.

use std::time::Duration;

use kit::{Process, Program, Signal};

use crate::site::Site;

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    Bare,
    Gateway,
}

/// A running contender.
pub struct Running {
    pub contender: Contender,
    pub process: Process,
    /// Host and port.
    pub address: String,
}

impl Contender {
    /// In the order of their turns.
    pub const BOTH: [Self; 2] = [Self::Bare, Self::Gateway];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare loop",
            Self::Gateway => "gateway",
        }
    }

    /// Starts it, and waits until it takes requests.
    pub async fn start(self, site: &Site) -> Running {
        match self {
            Self::Bare => {
                let own = std::env::current_exe().expect("a path");
                let process = Program::new(own).arg("role-bare").arg(site.amqp_url()).start();
                let address = process.wait_for_line(|_| true, LIMIT).await;
                Running { contender: self, process, address }
            }
            Self::Gateway => {
                let process = Program::new(env!("CARGO_BIN_EXE_unlocker"))
                    .arg("gateway")
                    .env("UNLOCKER__BROKER__URL", site.amqp_url())
                    .env("UNLOCKER__GATEWAY__LISTEN", "127.0.0.1:0")
                    .env("UNLOCKER__OPS__LISTEN", "127.0.0.1:0")
                    .start();
                let line = process.wait_for_line(|line| line.contains(r#""event":"started""#), LIMIT).await;
                let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                let address = line["address"].as_str().expect("an address").to_owned();
                for event in ["publishing_connected", "replies_received"] {
                    let event = format!(r#""event":"{event}""#);
                    process.wait_for_line(|line| line.contains(&event), LIMIT).await;
                }
                Running { contender: self, process, address }
            }
        }
    }
}

impl Running {
    /// Resident memory, in MiB.
    pub fn rss(&self) -> f64 {
        mib(self.process.rss())
    }

    /// The most resident memory that it has had, in MiB.
    pub fn peak_rss(&self) -> f64 {
        mib(self.process.peak_rss())
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.process.pid());
        std::fs::read_dir(directory).map_or(0, Iterator::count)
    }

    /// Ends it. The gateway must end well.
    pub async fn end(self) {
        match self.contender {
            Contender::Bare => self.process.kill9(),
            Contender::Gateway => {
                self.process.signal(Signal::TERM);
                let status = self.process.wait_exit(LIMIT).await;
                assert!(status.success(), "{status}");
            }
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
