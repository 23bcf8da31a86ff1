//! Debian's Chromium without a window, driven by the DevTools protocol.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use testbed::{Process, Program, eventually};
use tungstenite::{Message, WebSocket};

use crate::Context;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// How a page is shown.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

impl Screen {
    pub const DESKTOP: Self = Self { width: 1280, height: 800, dark: false };
    pub const NIGHT: Self = Self { width: 1280, height: 800, dark: true };
    pub const PHONE: Self = Self { width: 390, height: 844, dark: false };
}

/// A browser with one tab, in which pages run no script.
pub struct Chromium {
    process: Process,
    profile: PathBuf,
    socket: WebSocket<TcpStream>,
    last_id: u64,
}

impl Chromium {
    /// Starts it; it is ended with the test.
    ///
    /// # Panics
    /// Where there is no `chromium`: `scripts/get-chromium` installs it.
    pub async fn start(ctx: &Context) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program =
            std::env::split_paths(&path).map(|dir| dir.join("chromium")).find(|path| path.is_file());
        let program = program.expect("no chromium on the PATH: run scripts/get-chromium");
        let profile = std::env::temp_dir().join(format!("unlocker-chromium-{:016x}", fastrand::u64(..)));
        std::fs::create_dir_all(&profile).expect("a directory");
        let program = Program::new(program)
            .env("HOME", &profile)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--hide-scrollbars", "--force-color-profile=srgb", "--lang=en-GB"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--remote-debugging-port=0", &format!("--user-data-dir={}", profile.display())])
            .arg("about:blank");
        let process = ctx.start(&program);
        let line = process.wait_for_line(|line| line.starts_with("DevTools listening on ws://"), SOON).await;
        let port = line.split(['/', ':']).nth(4).expect("a port").to_owned();
        let tab = async || {
            let tabs = reqwest::get(format!("http://127.0.0.1:{port}/json/list")).await.ok()?;
            let tabs: Value = tabs.json().await.ok()?;
            let tab = tabs.as_array()?.iter().find(|tab| tab["type"] == "page")?;
            tab["webSocketDebuggerUrl"].as_str().map(str::to_owned)
        };
        let url = eventually("a tab", SOON, tab).await;
        let stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("Chromium listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let (socket, _response) = tungstenite::client(url, stream).expect("a web socket");
        let mut chromium = Self { process, profile, socket, last_id: 0 };
        chromium.command("Page.enable", json!({}));
        chromium.command("Emulation.setScriptExecutionDisabled", json!({"value": true}));
        chromium.show_on(Screen::DESKTOP);
        chromium
    }

    /// Gives a command and returns its result.
    fn command(&mut self, method: &str, params: Value) -> Value {
        self.try_command(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_command(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.last_id += 1;
        let command = json!({"id": self.last_id, "method": method, "params": params});
        self.socket.send(Message::text(command.to_string())).expect("Chromium takes commands");
        loop {
            let message = self.socket.read().expect("Chromium answers");
            let Ok(text) = message.to_text() else { continue };
            let Ok(mut answer) = serde_json::from_str::<Value>(text) else { continue };
            if answer["id"] == self.last_id {
                return match answer.get("error") {
                    Some(error) => Err(error.clone()),
                    None => Ok(answer["result"].take()),
                };
            }
        }
    }

    /// What an expression gives, in the page as it is now.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        // Between two pages there is nothing to ask.
        let mut answer = self.try_command("Runtime.evaluate", params).unwrap_or_default();
        answer["result"]["value"].take()
    }

    /// What an expression gives once there is a page: between two there is none.
    pub async fn value(&mut self, expression: &str) -> Value {
        eventually(expression, SOON, async || {
            Some(self.evaluate(expression)).filter(|value| !value.is_null())
        })
        .await
    }

    /// What axe-core finds wrong with the page as it is now: a line for each element. `axe` is its source.
    ///
    /// # Panics
    /// If it cannot be asked.
    pub async fn violations(&mut self, axe: &str) -> Vec<String> {
        eventually("what axe finds", SOON, async || self.try_violations(axe)).await
    }

    /// As [`violations`](Self::violations); the error is Chromium's. A page that renews itself meanwhile is one.
    fn try_violations(&mut self, axe: &str) -> Result<Vec<String>, Value> {
        self.command("Emulation.setScriptExecutionDisabled", json!({"value": false}));
        self.evaluate(&format!("{axe}; true"));
        let run = "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.flatMap(v => \
            v.nodes.map(n => `${v.id}: ${n.html} ${n.failureSummary}`)))";
        let params = json!({"expression": run, "returnByValue": true, "awaitPromise": true});
        let answer = self.try_command("Runtime.evaluate", params);
        self.command("Emulation.setScriptExecutionDisabled", json!({"value": true}));
        let mut answer = answer?;
        serde_json::from_value(answer["result"]["value"].take()).map_err(|_| answer)
    }

    /// Waits until an expression is true of the page.
    pub async fn wait(&mut self, what: &str, expression: &str) {
        let expression = format!("document.readyState === 'complete' && ({expression})");
        let mut seen = async || {
            if self.evaluate(&expression) == true {
                Ok(())
            } else {
                Err(self.evaluate("document.body?.innerText"))
            }
        };
        eventually(what, SOON, &mut seen).await;
    }

    /// Waits until the page has this heading.
    pub async fn wait_heading(&mut self, heading: &str) {
        let expression = format!("document.querySelector('h1')?.innerText === {}", json!(heading));
        self.wait(&format!("the page {heading:?}"), &expression).await;
    }

    pub fn go(&mut self, url: &str) {
        self.command("Page.navigate", json!({"url": url}));
    }

    /// Presses what a selector finds.
    ///
    /// # Panics
    /// If it finds nothing.
    pub fn press(&mut self, selector: &str) {
        let expression =
            format!("(e => e ? (e.click(), true) : false)(document.querySelector({}))", json!(selector));
        assert_eq!(self.evaluate(&expression), true, "there is no {selector}");
    }

    /// Types into what a selector finds, in place of what is there.
    ///
    /// # Panics
    /// If it finds nothing.
    pub fn type_into(&mut self, selector: &str, text: &str) {
        let expression = format!(
            "(e => e ? (e.focus(), e.select(), true) : false)(document.querySelector({}))",
            json!(selector)
        );
        assert_eq!(self.evaluate(&expression), true, "there is no {selector}");
        self.command("Input.insertText", json!({"text": text}));
    }

    pub fn press_tab(&mut self) {
        self.press_key("rawKeyDown", "Tab", 9, "");
    }

    pub fn press_enter(&mut self) {
        self.press_key("keyDown", "Enter", 13, "\r");
    }

    /// `text` is what the key types.
    fn press_key(&mut self, down: &str, name: &str, code: u32, text: &str) {
        for kind in [down, "keyUp"] {
            let mut key = json!({"type": kind, "key": name, "code": name, "windowsVirtualKeyCode": code});
            if kind == "keyDown" {
                key["text"] = text.into();
                key["unmodifiedText"] = text.into();
            }
            self.command("Input.dispatchKeyEvent", key);
        }
    }

    pub fn show_on(&mut self, screen: Screen) {
        let Screen { width, height, dark } = screen;
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.command("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = json!({"name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" }});
        self.command("Emulation.setEmulatedMedia", json!({"features": [scheme]}));
    }

    /// Keeps a picture of the whole page, in the format of its name.
    pub fn picture(&mut self, path: &Path) {
        let params = match path.extension().is_some_and(|extension| extension == "webp") {
            true => json!({"format": "webp", "quality": 80, "captureBeyondViewport": true}),
            false => json!({"format": "png", "captureBeyondViewport": true}),
        };
        let shot = self.command("Page.captureScreenshot", params);
        let data = shot["data"].as_str().expect("a picture");
        let picture = data_encoding::BASE64.decode(data.as_bytes()).expect("base64");
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(path, picture).expect("the picture is written");
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.process.kill9();
        // What a dying helper process still writes there is left behind.
        std::fs::remove_dir_all(&self.profile).ok();
    }
}
