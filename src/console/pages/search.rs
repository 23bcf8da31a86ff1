//! What was found of a customer or a request, as a timeline.

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};

use super::view::{self, TimeView, day_and_minute};
use crate::console::{
    app::App,
    fields::Fields,
    page_layout::PageLayout,
    page_user::PageUser,
    problem::{Problem, render},
    search::{MAX_TEXT, RequestTimeline},
};

#[derive(Template)]
#[template(path = "search.html")]
struct SearchPage {
    layout: PageLayout,
    requests: Vec<RequestView>,
    notes: Vec<String>,
    /// Since when outcomes were searched.
    since: Option<String>,
    has_history: bool,
}

struct RequestView {
    id: String,
    requested_by: Option<String>,
    trace_id: Option<String>,
    trace: Option<String>,
    events: Vec<EventView>,
    dead_letters: Vec<String>,
}

struct EventView {
    at: TimeView,
    kind: &'static str,
    text: String,
}

pub(super) async fn search(
    State(app): State<App>,
    page_user: PageUser,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let text = fields.get("q").unwrap_or_default();
    let layout = PageLayout { search: text.to_owned(), ..page_user.layout("Find") };
    if text.is_empty() {
        return Ok(render(&SearchPage {
            layout,
            requests: Vec::new(),
            notes: Vec::new(),
            since: None,
            has_history: false,
        }));
    }
    if text.len() > MAX_TEXT {
        let what = format!("The text is too long: identifiers and ids have at most {MAX_TEXT} bytes.");
        return Err(Problem::bad_request(what));
    }
    let found = app.search.find(&page_user.actor(), text).await?;
    let template = app.trace_url.as_deref();
    Ok(render(&SearchPage {
        layout,
        requests: found.requests.iter().map(|request| RequestView::new(request, template)).collect(),
        notes: found.unseen.clone(),
        since: found.looked_back_to.map(day_and_minute),
        has_history: app.recent.is_some(),
    }))
}

impl RequestView {
    fn new(request: &RequestTimeline, trace_url: Option<&str>) -> Self {
        let event = |event: &crate::console::search::TimelineEvent| EventView {
            at: TimeView::precise(event.at),
            kind: event.kind,
            text: event.text.clone(),
        };
        Self {
            id: request.request_id.clone(),
            requested_by: request.requested_by.clone(),
            trace: view::trace_link(trace_url, request.trace_id.as_deref()),
            trace_id: request.trace_id.clone(),
            events: request.events.iter().map(event).collect(),
            dead_letters: request.dead_letters.iter().map(ToString::to_string).collect(),
        }
    }
}
