//! `--keep`: everything stays up, with the addresses and the commands to try.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::asked_to_stop;
use crate::http;
use crate::outcomes::Outcomes;
use crate::stage::{API_KEY, API_USERNAME, RESULTS, Stage, unlocker};

/// Stays until SIGINT or SIGTERM, or until the gateway, the worker or the sandbox ends, and shows further outcomes.
pub async fn stay(stage: &Stage, outcomes: &mut Outcomes) {
    let settings = SettingsFile::write(stage);
    print_addresses(stage);
    print_commands(stage, &settings.path);
    println!("\nCtrl-C stops everything. Until then, further outcomes:\n");
    tokio::select! {
        () = asked_to_stop() => println!("\nstopping"),
        () = outcomes.follow(|| !stage.has_fallen()) => {}
    }
}

fn print_addresses(stage: &Stage) {
    println!("\nEverything stays up:\n");
    println!("  AMQP             {}", stage.amqp_url);
    if let Some(page) = management_page(stage) {
        println!("  management page  {page}");
    }
    println!("  sandbox          {}", stage.sandbox_url);
    println!("  gateway          http://{}", stage.gateway_address);
}

fn print_commands(stage: &Stage, settings: &Path) {
    let unlocker = from_here(&unlocker());
    let (unlocker, settings) = (unlocker.display(), settings.display());
    println!("\nTo try, in another terminal:\n");
    for arguments in [
        "publish --customer-id 191 --wait",
        "publish --customer-id 404404 --wait",
        "dead-letters list",
        "check",
    ] {
        println!("  {unlocker} --config {settings} {arguments}");
    }
    println!("\nThe same by environment variables:\n");
    println!("  UNLOCKER__BROKER__URL='{}' {unlocker} publish --orderid EV-42 --wait", stage.amqp_url);
    println!("\nOver HTTP (docs/http.md):\n");
    println!("  {}", http::curl(stage, "order-43"));
    println!("\nThe examples for other services (examples/README.md):\n");
    println!("  export AMQP_URL='{}'", stage.amqp_url);
    println!("  export MANAGEMENT_URL='{}'", stage.broker.node().management_url());
    for language in ["rust", "python", "node", "php", "shell", "cloud-event"] {
        println!("  scripts/example {language} 191");
    }
    println!("  export GATEWAY_URL='http://{}'", stage.gateway_address);
    for tool in ["curl", "python", "node", "php"] {
        println!("  scripts/example http-{tool} 191");
    }
    println!("  scripts/example listen        # and in yet another terminal: scripts/example python 404404");
    println!("\nOutcomes go to the topic exchange {RESULTS}, routing keys unlock.*.");
}

/// The management page with its user and password.
fn management_page(stage: &Stage) -> Option<String> {
    let user = stage.amqp_url.split_once("://")?.1.split_once('@')?.0;
    let (user, password) = user.split_once(':')?;
    Some(format!("{}/ (user {user}, password {password})", stage.broker.node().management_url()))
}

/// A file for `--config`, beside the programs; removed at the end.
struct SettingsFile {
    path: PathBuf,
}

impl SettingsFile {
    fn write(stage: &Stage) -> Self {
        let path = unlocker().with_file_name(format!("demo-{}.toml", std::process::id()));
        // A JSON string is a TOML string, too.
        let quoted = |text: &str| Value::from(text).to_string();
        let text = format!(
            "[trackfinity]\nbase_url = {}\napi_key = {}\napi_username = {}\n\n[broker]\nurl = {}\n\n[ops]\nlisten = \"\"\n",
            quoted(&stage.sandbox_url),
            quoted(API_KEY),
            quoted(API_USERNAME),
            quoted(&stage.amqp_url),
        );
        let mut options = fs::File::options();
        let file = options.create(true).write(true).truncate(true).mode(0o600).open(&path);
        std::io::Write::write_all(&mut file.expect("the settings file opens"), text.as_bytes())
            .expect("the settings file is written");
        Self { path: from_here(&path) }
    }
}

impl Drop for SettingsFile {
    fn drop(&mut self) {
        // Gone already is as good.
        fs::remove_file(&self.path).ok();
    }
}

/// A path relative to the current directory, if it lies below.
fn from_here(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_owned()
}
