//! The list of dead letters, and a single one: masked until an operator asks to see it.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use percent_encoding::NON_ALPHANUMERIC;

use super::view::{self, Row, TimeView};
use crate::{
    console::{
        app::App,
        fields::Fields,
        filters,
        page_layout::PageLayout,
        page_user::{PageUser, SignedForm},
        problem::{Problem, render},
    },
    dead_letters::{DeadLetter, DeadLetterSummary, Filter, dead_letter},
    message::DeadLetterStatus,
};

/// Dead letters per page.
const PER_PAGE: usize = 50;
/// The most dead letters of one id on its page.
const MAX_PER_ID: usize = 10;

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct ListPage {
    layout: PageLayout,
    statuses: Vec<StatusOption>,
    reason: String,
    since: String,
    until: String,
    id: String,
    /// The filter as a query; empty if there is none.
    query: String,
    rows: Vec<Row>,
    count: usize,
    /// Positions of the first and the last row, counted from one.
    first: usize,
    last: usize,
    previous: Option<String>,
    next: Option<String>,
    note: Option<String>,
}

impl ListPage {
    /// The value of a filter field.
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
    page_user: PageUser,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let filter = filters::read(&fields)?;
    let page = filters::number(&fields, "page", 1usize, 1..=100_000)?;
    let first = (page - 1) * PER_PAGE;
    let found = app.reader.page(&page_user.actor(), &filter, first, PER_PAGE).await?;
    let query = filters::query(&fields);
    let link = |page: usize| {
        let separator = if query.is_empty() { "" } else { "&" };
        format!("/dead-letters?{query}{separator}page={page}")
    };
    let text = |name| fields.all(name).collect::<Vec<_>>().join(",");
    let last = first + found.dead_letters.len();
    Ok(render(&ListPage {
        layout: page_user.layout("Dead letters"),
        statuses: DeadLetterStatus::ALL
            .iter()
            .map(|status| StatusOption { name: status.as_str(), selected: filter.status.contains(status) })
            .collect(),
        reason: text("reason"),
        since: text("since"),
        until: text("until"),
        id: text("id"),
        rows: found.dead_letters.iter().map(Row::from).collect(),
        count: found.count,
        first: (first + 1).min(last),
        last,
        previous: (page > 1).then(|| link(page - 1)),
        next: (last < found.count).then(|| link(page + 1)),
        note: view::incomplete_note(&found.coverage),
        query,
    }))
}

#[derive(Template)]
#[template(path = "dead_letter.html")]
struct DeadLetterPage {
    layout: PageLayout,
    id: String,
    /// The id as a part of a path.
    path: String,
    dead_letters: Vec<DeadLetterView>,
    /// All dead letters with this id; not all may be shown.
    count: usize,
    /// Whether the masked data is shown.
    shown: bool,
    /// Whether it can be corrected: it alone has this id, and is invalid.
    correctable: bool,
}

/// A dead letter, with the masked data if an operator asked to see it.
struct DeadLetterView {
    row: Row,
    http_status: Option<u16>,
    size: usize,
    first_received: TimeView,
    trace_id: Option<String>,
    trace: Option<String>,
    masked: Option<MaskedData>,
}

/// Data that is masked until an operator asks to see it.
struct MaskedData {
    detail: Option<String>,
    response: Option<String>,
    body: String,
    /// Whether the body is shown as hex, because it is not UTF-8.
    is_hex: bool,
    /// Properties and headers.
    properties: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

pub(super) async fn dead_letter(
    State(app): State<App>,
    page_user: PageUser,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let filter = Filter { ids: vec![id.clone()], ..Filter::default() };
    let found = app.reader.page(&page_user.actor(), &filter, 0, MAX_PER_ID).await?;
    let dead_letters = found.dead_letters.iter().map(|summary| view_of(&app, summary, None)).collect();
    page(&page_user, id, dead_letters, found.count, false)
}

/// Shows everything. Writes to the audit log first.
pub(super) async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    form: SignedForm,
) -> Result<Response, Problem> {
    let actor = form.operator()?;
    let found = app.reader.show(&actor, &id).await?;
    let first = found.dead_letters.len().saturating_sub(MAX_PER_ID);
    let view = |shown: &DeadLetter| view_of(&app, &shown.summary, Some(MaskedData::from(shown)));
    let dead_letters = found.dead_letters.iter().skip(first).map(view).collect();
    page(&form.page_user, id, dead_letters, found.count, true)
}

fn page(
    page_user: &PageUser,
    id: String,
    dead_letters: Vec<DeadLetterView>,
    count: usize,
    shown: bool,
) -> Result<Response, Problem> {
    if dead_letters.is_empty() {
        return Err(Problem::not_found(format!("There is no dead letter {id}.")));
    }
    let layout = page_user.layout(format!("Dead letter {id}"));
    let correctable = shown
        && matches!(dead_letters.as_slice(), [one] if one.row.status == DeadLetterStatus::Invalid.as_str());
    let path = percent_encoding::utf8_percent_encode(&id, NON_ALPHANUMERIC).to_string();
    Ok(render(&DeadLetterPage { layout, id, path, dead_letters, count, shown, correctable }))
}

fn view_of(app: &App, dead_letter: &DeadLetterSummary, masked: Option<MaskedData>) -> DeadLetterView {
    let template: Option<&Arc<str>> = app.trace_url.as_ref();
    DeadLetterView {
        row: Row::from(dead_letter),
        http_status: dead_letter.http_status,
        size: dead_letter.size,
        first_received: dead_letter.first_received_at.into(),
        trace_id: dead_letter.trace_id.clone(),
        trace: view::trace_link(template.map(AsRef::as_ref), dead_letter.trace_id.as_deref()),
        masked,
    }
}

impl From<&DeadLetter> for MaskedData {
    fn from(dead_letter: &DeadLetter) -> Self {
        let json = dead_letter.to_json();
        let pairs = |name: &str| match json.get(name) {
            Some(serde_json::Value::Object(all)) => all.iter().map(pair).collect(),
            _ => Vec::new(),
        };
        let mut headers: Vec<(String, String)> = pairs("headers");
        // The page shows the worker's own headers elsewhere.
        headers.retain(|(name, _)| !dead_letter::is_known(name));
        let text = std::str::from_utf8(&dead_letter.body);
        let hex = |_| dead_letter.body.iter().map(|byte| format!("{byte:02x} ")).collect();
        Self {
            detail: dead_letter.summary.detail.clone(),
            response: dead_letter.response.clone(),
            is_hex: text.is_err(),
            body: text.map_or_else(hex, view::readable),
            properties: pairs("properties"),
            headers,
        }
    }
}

fn pair((name, value): (&String, &serde_json::Value)) -> (String, String) {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    (name.clone(), value)
}
