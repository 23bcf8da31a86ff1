//! Load by wrk, from Debian's package.

use std::path::Path;
use std::process::Stdio;

/// What wrk reports.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub struct Load {
    /// Answers.
    pub requests: usize,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Answers with another status than 2xx and 3xx.
    pub wrong_answers: usize,
    /// Connections, reads and writes that failed.
    pub errors: usize,
    /// Answers that took over 2 s.
    pub slow: usize,
    /// Milliseconds.
    pub p50: f64,
    pub p99: f64,
}

/// Sends requests on this many connections, one at a time on each. `pause_ms`: before each request.
///
/// # Panics
/// If wrk is not installed.
pub async fn run(address: &str, connections: usize, seconds: usize, pause_ms: usize) -> Load {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gateway/unlock.lua");
    let mut wrk = tokio::process::Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s"), "--script"])
        .arg(script)
        .arg(format!("http://{address}/v1/unlocks"))
        .env("PAUSE_MS", pause_ms.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = wrk.output().await.expect("wrk is installed: make setup");
    let said = String::from_utf8_lossy(&output.stdout);
    let figures = said.lines().find_map(|line| line.strip_prefix("figures "));
    let figures =
        figures.unwrap_or_else(|| panic!("wrk said: {said}{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(figures).expect("JSON")
}

impl Load {
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// # Panics
    /// If anything went wrong.
    pub fn assert_clean(self) -> Self {
        assert_eq!((self.wrong_answers, self.errors, self.slow), (0, 0, 0), "{self:?}");
        self
    }
}
