//! The list of letters, and one of them: masked, until an operator asks.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};

use super::view::{self, Age, LetterLinks, Row};
use crate::{
    admin::{
        App, filters,
        frame::Frame,
        problem::{Problem, render},
        visitor::{Fields, Signed, Visitor},
    },
    dead_letters::{Brief, Filter, Letter, letter},
    message::DeadLetterStatus,
};

/// Letters on a page.
const PER_PAGE: usize = 50;
/// Letters of one id that are shown.
const ALIKE: usize = 10;

#[derive(Template)]
#[template(path = "letters.html")]
struct ListPage {
    frame: Frame,
    statuses: Vec<StatusOption>,
    reason: String,
    since: String,
    until: String,
    id: String,
    /// The filter as it stands in the address, and whether there is one.
    query: String,
    rows: Vec<Row>,
    count: usize,
    /// Positions of the first and the last row, counted from one.
    first: usize,
    last: usize,
    previous: Option<String>,
    next: Option<String>,
    short: Option<String>,
}

impl ListPage {
    /// What the filter holds by this name.
    fn field(&self, name: &str) -> &str {
        match name {
            "reason" => &self.reason,
            "since" => &self.since,
            "until" => &self.until,
            _ => &self.id,
        }
    }
}

struct StatusOption {
    name: &'static str,
    selected: bool,
}

pub(super) async fn list(
    State(app): State<App>,
    visitor: Visitor,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let filter = filters::read(&fields)?;
    let page = filters::number(&fields, "page", 1usize, 1..=100_000)?;
    let first = (page - 1) * PER_PAGE;
    let found = app.looks.page(&visitor.actor(), &filter, first, PER_PAGE).await?;
    let query = filters::query(&fields);
    let link = |page: usize| {
        let separator = if query.is_empty() { "" } else { "&" };
        format!("/letters?{query}{separator}page={page}")
    };
    let text = |name| fields.all(name).collect::<Vec<_>>().join(",");
    let last = first + found.letters.len();
    Ok(render(&ListPage {
        frame: Frame::new("Letters", &visitor),
        statuses: DeadLetterStatus::ALL
            .iter()
            .map(|status| StatusOption { name: status.as_str(), selected: filter.status.contains(status) })
            .collect(),
        reason: text("reason"),
        since: text("since"),
        until: text("until"),
        id: text("id"),
        rows: found.letters.iter().map(Row::of).collect(),
        count: found.count,
        first: (first + 1).min(last),
        last,
        previous: (page > 1).then(|| link(page - 1)),
        next: (last < found.count).then(|| link(page + 1)),
        short: view::short(&found.extent),
        query,
    }))
}

#[derive(Template)]
#[template(path = "letter.html")]
struct LetterPage {
    frame: Frame,
    id: String,
    letters: Vec<LetterView>,
    /// Letters with this id, of which some are shown.
    count: usize,
    /// Whether this is what was masked.
    shown: bool,
}

/// A letter, with what is masked if it was asked for.
struct LetterView {
    row: Row,
    http_status: Option<u16>,
    size: usize,
    first_received: Age,
    trace_id: Option<String>,
    trace: Option<String>,
    inside: Option<Inside>,
}

/// What is masked.
struct Inside {
    detail: Option<String>,
    response: Option<String>,
    body: String,
    /// Whether the body is shown as hex, as it is no text.
    is_hex: bool,
    /// Properties and headers.
    properties: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

pub(super) async fn letter(
    State(app): State<App>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let filter = Filter { ids: vec![id.clone()], ..Filter::default() };
    let found = app.looks.page(&visitor.actor(), &filter, 0, ALIKE).await?;
    let letters = found.letters.iter().map(|letter| view_of(&app, letter, None)).collect();
    page(&visitor, id, letters, found.count, false)
}

/// Everything there is. The look is written to the audit log before it is made.
pub(super) async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    signed: Signed,
) -> Result<Response, Problem> {
    let actor = signed.operator()?;
    let found = app.looks.show(&actor, &id).await?;
    let first = found.letters.len().saturating_sub(ALIKE);
    let letters = found.letters.iter().skip(first);
    let letters = letters.map(|letter| view_of(&app, &letter.brief, Some(Inside::of(letter)))).collect();
    page(&signed.visitor, id, letters, found.count, true)
}

fn page(
    visitor: &Visitor,
    id: String,
    letters: Vec<LetterView>,
    count: usize,
    shown: bool,
) -> Result<Response, Problem> {
    if letters.is_empty() {
        return Err(Problem::not_found(format!("There is no dead letter {id}.")));
    }
    let frame = Frame::new(format!("Letter {id}"), visitor);
    Ok(render(&LetterPage { frame, id, letters, count, shown }))
}

fn view_of(app: &App, letter: &Brief, inside: Option<Inside>) -> LetterView {
    let template: Option<&Arc<str>> = app.trace_url.as_ref();
    LetterView {
        row: Row::of(letter),
        http_status: letter.http_status,
        size: letter.size,
        first_received: Age::of(letter.first_received_at),
        trace_id: letter.trace_id.clone(),
        trace: LetterLinks::trace(template.map(AsRef::as_ref), letter.trace_id.as_deref()),
        inside,
    }
}

impl Inside {
    fn of(letter: &Letter) -> Self {
        let json = letter.to_json();
        let pairs = |name: &str| match json.get(name) {
            Some(serde_json::Value::Object(all)) => all.iter().map(pair).collect(),
            _ => Vec::new(),
        };
        let mut headers: Vec<(String, String)> = pairs("headers");
        // Its own headers stand above already.
        headers.retain(|(name, _)| !letter::is_known(name));
        let text = std::str::from_utf8(&letter.body);
        let hex = |_| letter.body.iter().map(|byte| format!("{byte:02x} ")).collect();
        Self {
            detail: letter.brief.detail.clone(),
            response: letter.response.clone(),
            is_hex: text.is_err(),
            body: text.map_or_else(hex, readable),
            properties: pairs("properties"),
            headers,
        }
    }
}

fn pair((name, value): (&String, &serde_json::Value)) -> (String, String) {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    (name.clone(), value)
}

/// As it is: to lay JSON out anew would hide what is wrong with it. Characters that turn the
/// direction of what follows are made visible.
fn readable(body: &str) -> String {
    body.chars()
        .map(|c| match c {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c => c,
        })
        .collect()
}
