//! The checks so far, and the verdict on all of them.

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::args::Role;
use crate::{
    cli::{
        failure::{Failure, SETTINGS_INVALID, UNREACHABLE},
        print::{print, print_json},
        terminal::Terminal,
    },
    settings::Faults,
};

/// One check.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    name: String,
    ok: bool,
    detail: String,
    /// What to do about a fault; for a check that passed, what to bear in mind.
    remedy: Option<String>,
}

impl Check {
    pub(super) fn pass(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), ok: true, detail: detail.into(), remedy: None }
    }

    pub(super) fn fail(
        name: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), ok: false, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    /// Passes, but there is something to bear in mind.
    pub(super) fn note(
        name: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { ok: true, ..Self::fail(name, detail, remedy) }
    }
}

#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    value: String,
    /// Where the value came from; null if it is not set.
    source: Option<String>,
}

#[derive(Debug, Serialize)]
struct Verdict {
    ready: bool,
    faults: usize,
    text: String,
}

/// All checks: printed one by one, or at the end as one JSON document.
#[derive(Debug)]
pub(super) struct Report {
    role: Role,
    as_json: bool,
    terminal: Terminal,
    settings: Vec<Setting>,
    checks: Vec<Check>,
    settings_are_invalid: bool,
    is_unreachable: bool,
}

impl Report {
    pub(super) fn new(role: Role, as_json: bool) -> Self {
        Self {
            role,
            as_json,
            terminal: Terminal::of_stdout(),
            settings: Vec::new(),
            checks: Vec::new(),
            settings_are_invalid: false,
            is_unreachable: false,
        }
    }

    /// The process that is checked.
    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// The settings, which are valid: each key, its value for people, and where it came from.
    pub(super) fn settings(&mut self, described: Vec<(String, String, String)>) -> Result<(), Failure> {
        for (key, value, source) in described {
            let source = Some(source).filter(|source| !source.is_empty());
            if !self.as_json {
                let from = source.as_ref().map(|source| format!("  ({source})")).unwrap_or_default();
                print(format_args!("      {key} = {value}{from}"))?;
            }
            self.settings.push(Setting { key, value, source });
        }
        self.add(Check::pass("settings", "valid"))
    }

    pub(super) fn add_setting_faults(&mut self, faults: &Faults) -> Result<(), Failure> {
        self.settings_are_invalid = true;
        for fault in faults.iter() {
            let detail = format!("({}) {}", fault.source, fault.wrong);
            self.add(Check::fail(fault.key.clone(), detail, fault.remedy.clone()))?;
        }
        Ok(())
    }

    /// None of RabbitMQ's addresses answers.
    pub(super) fn set_unreachable(&mut self) {
        self.is_unreachable = true;
    }

    pub(super) fn add(&mut self, check: Check) -> Result<(), Failure> {
        if !self.as_json {
            let (label, color) = match (check.ok, &check.remedy) {
                (true, None) => ("ok  ", AnsiColor::Green),
                (true, Some(_)) => ("note", AnsiColor::Yellow),
                (false, _) => ("FAIL", AnsiColor::Red),
            };
            let style = Style::new().bold().fg_color(Some(color.into()));
            let indented = |text: &str| text.replace('\n', "\n      ");
            let (label, detail) = (self.terminal.paint(style, label), indented(&check.detail));
            print(format_args!("{label}  {}: {detail}", check.name))?;
            if let Some(remedy) = &check.remedy {
                let intro = if check.ok { "" } else { "fix: " };
                print(format_args!("      {intro}{}", indented(remedy)))?;
            }
        }
        self.checks.push(check);
        Ok(())
    }

    fn verdict(&self) -> Verdict {
        let failed: Vec<&str> =
            self.checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect();
        let faults = failed.len();
        let checks = match self.checks.len() {
            1 => "1 check".to_owned(),
            count => format!("{count} checks"),
        };
        let text = match faults {
            0 => format!("ready: {checks} passed"),
            1 => format!("not ready: 1 fault in {checks}: {}", failed.join("; ")),
            _ => format!("not ready: {faults} faults in {checks}: {}", failed.join("; ")),
        };
        Verdict { ready: faults == 0, faults, text }
    }

    /// Prints the verdict, or all as JSON. Fails if there is a fault.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let verdict = self.verdict();
        let ready = verdict.ready;
        if self.as_json {
            print_json(&serde_json::json!({
                "role": self.role,
                "settings": self.settings,
                "checks": self.checks,
                "verdict": verdict,
            }))?;
        } else {
            print(format_args!("{}", self.terminal.paint(Style::new().bold(), &verdict.text)))?;
        }
        match ready {
            true => Ok(()),
            false if self.settings_are_invalid => Err(Failure::ReportedAs(SETTINGS_INVALID)),
            false if self.is_unreachable => Err(Failure::ReportedAs(UNREACHABLE)),
            false => Err(Failure::Reported),
        }
    }
}
