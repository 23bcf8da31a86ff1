//! Debian's tinyproxy: a real HTTP CONNECT proxy.

use std::path::PathBuf;
use std::time::Duration;

use testbed::{Process, Program, eventually, free_port};

use crate::Context;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// What a proxy allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProxyRules<'a> {
    /// The user and the password that it wants.
    pub login: Option<(&'a str, &'a str)>,
    /// The only port to which it opens tunnels; any without it.
    pub target_port: Option<u16>,
}

/// A place for a proxy, which may be down.
pub struct Tinyproxy {
    ctx: Context,
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    running: Option<Process>,
    /// Tunnels of those that ran before.
    earlier: Vec<String>,
}

impl Tinyproxy {
    /// A place for a proxy on a free loopback port. It is down.
    ///
    /// # Panics
    /// Where there is no `tinyproxy`: `scripts/get-tinyproxy` installs it.
    pub fn down(ctx: &Context) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program =
            std::env::split_paths(&path).map(|dir| dir.join("tinyproxy")).find(|path| path.is_file());
        let program = program.expect("no tinyproxy on the PATH: run scripts/get-tinyproxy");
        let folder = std::env::temp_dir().join(format!("unlocker-tinyproxy-{:016x}", fastrand::u64(..)));
        std::fs::create_dir_all(&folder).expect("a directory");
        let earlier = Vec::new();
        Self { ctx: ctx.clone(), program, folder, port: free_port(), running: None, earlier }
    }

    /// One that runs.
    pub async fn start(ctx: &Context, rules: ProxyRules<'_>) -> Self {
        let mut proxy = Self::down(ctx);
        proxy.run(rules).await;
        proxy
    }

    /// Starts it with these rules, after it has ended the one that runs.
    pub async fn run(&mut self, rules: ProxyRules<'_>) {
        self.end();
        let mut config =
            format!("Port {}\nListen 127.0.0.1\nTimeout 600\nMaxClients 500\nLogLevel Connect\n", self.port);
        if let Some((user, password)) = rules.login {
            config.push_str(&format!("BasicAuth {user} {password}\n"));
        }
        if let Some(port) = rules.target_port {
            config.push_str(&format!("ConnectPort {port}\n"));
        }
        let file = self.folder.join("tinyproxy.conf");
        std::fs::write(&file, config).expect("written");
        let running = self.ctx.start(&Program::new(&self.program).arg("-d").arg("-c").arg(file));
        let address = self.address();
        eventually("tinyproxy listens", SOON, async || {
            tokio::net::TcpStream::connect(&address).await.is_ok()
        })
        .await;
        self.running = Some(running);
    }

    /// Ends it and all its tunnels.
    pub fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill9();
            self.earlier.extend(running.stdout());
        }
    }

    /// For example `127.0.0.1:12345`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How often it was asked for a tunnel, as far as its log has it.
    pub fn asked(&self) -> usize {
        let now = self.running.iter().flat_map(Process::stdout);
        now.chain(self.earlier.iter().cloned()).filter(|line| line.contains(": CONNECT ")).count()
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        self.end();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
