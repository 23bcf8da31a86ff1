//! The chart of outcomes, as the numbers of its drawing.

use std::collections::BTreeMap;

use super::view::{day_and_minute, minute_of_day};
use crate::{
    console::{
        outcome_counts::{Change, Interval, Window},
        recent::{Phase, Recent},
        words,
    },
    message::{Status, Timestamp},
};

/// The most lines of what has changed.
const MAX_CHANGES: usize = 6;
/// The height of the drawing, and the width of an interval in it.
const HEIGHT: f64 = 100.0;
const STEP: usize = 10;

pub(super) struct Chart {
    pub(super) window: &'static str,
    pub(super) interval: String,
    pub(super) width: usize,
    pub(super) bars: Vec<Bar>,
    /// What a pointer shows for each interval that is not empty.
    pub(super) hovers: Vec<Hover>,
    /// The largest interval.
    pub(super) max: u32,
    pub(super) from: String,
    /// Statuses that there are.
    pub(super) totals: Vec<Total>,
    pub(super) summary: String,
    /// The intervals that are not empty, the latest first.
    pub(super) rows: Vec<ChartRow>,
    pub(super) changes: Vec<ChangeLine>,
    pub(super) note: Option<String>,
}

pub(super) struct Bar {
    pub(super) status: &'static str,
    pub(super) x: usize,
    pub(super) y: String,
    pub(super) height: String,
}

pub(super) struct Hover {
    pub(super) x: usize,
    pub(super) text: String,
}

pub(super) struct Total {
    pub(super) status: &'static str,
    pub(super) count: u32,
}

pub(super) struct ChartRow {
    pub(super) from: String,
    pub(super) counts: Vec<u32>,
}

pub(super) struct ChangeLine {
    pub(super) status: &'static str,
    pub(super) reason: String,
    pub(super) text: String,
    /// CSS class: `better`, `worse` or empty.
    pub(super) class: &'static str,
}

impl Chart {
    pub(super) fn new(recent: &Recent, window: Window, now: Timestamp) -> Self {
        let changes = recent.changes(now).into_iter().take(MAX_CHANGES).map(ChangeLine::from).collect();
        let note = match recent.phase() {
            Phase::UpToDate => None,
            Phase::Reading { read, total } => Some(format!(
                "The history is being read: {read} of {total} outcomes so far. Reload in a moment."
            )),
            Phase::Failed(why) => {
                Some(format!("The history cannot be read, and may be incomplete here: {why}."))
            }
        };
        Self { changes, note, ..Self::draw(&recent.intervals(window, now), window) }
    }

    fn draw(intervals: &[Interval], window: Window) -> Self {
        let short =
            |at: Timestamp| if window == Window::Hour { minute_of_day(at) } else { day_and_minute(at) };
        let sum = |interval: &Interval| interval.counts.values().sum::<u32>();
        let max = intervals.iter().map(sum).max().unwrap_or(0);
        let mut all = BTreeMap::<&'static str, u32>::new();
        for (status, count) in intervals.iter().flat_map(|interval| &interval.counts) {
            *all.entry(status).or_default() += count;
        }
        // From the bottom up.
        let order = Status::ALL.map(Status::as_str).into_iter().chain(["other"]);
        let totals: Vec<_> =
            order.filter_map(|status| Some(Total { status, count: *all.get(status)? })).collect();
        let (mut bars, mut hovers, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (n, interval) in intervals.iter().enumerate().filter(|(_, interval)| sum(interval) > 0) {
            let x = n * STEP;
            let mut top = HEIGHT;
            for Total { status, .. } in &totals {
                let Some(count) = interval.counts.get(status) else { continue };
                let height = f64::from(*count) / f64::from(max) * HEIGHT;
                top -= height;
                let (y, height) = (format!("{top:.2}"), format!("{height:.2}"));
                bars.push(Bar { status, x: x + 1, y, height });
            }
            let from = short(interval.start);
            let counts = totals.iter().map(|total| interval.counts.get(total.status).copied().unwrap_or(0));
            hovers.push(Hover { x, text: format!("from {from}: {}", listed(&interval.counts)) });
            rows.push(ChartRow { from, counts: counts.collect() });
        }
        rows.reverse();
        Self {
            window: window.name(),
            interval: humantime::format_duration(window.interval())
                .to_string()
                .replace('m', " min")
                .replace('h', " h"),
            width: intervals.len() * STEP,
            bars,
            hovers,
            max,
            from: intervals.first().map(|first| short(first.start)).unwrap_or_default(),
            summary: listed(&all),
            totals,
            rows,
            changes: Vec::new(),
            note: None,
        }
    }
}

fn listed(counts: &BTreeMap<&'static str, u32>) -> String {
    let parts: Vec<_> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    parts.join(", ")
}

impl From<Change> for ChangeLine {
    fn from(change: Change) -> Self {
        let Change { status, reason, last_hour, hour_before } = change;
        let is_good = status == Status::Unlocked.as_str();
        let class = match (last_hour > hour_before) == is_good {
            _ if status == Status::Discarded.as_str() => "",
            true => "better",
            false => "worse",
        };
        let text = match hour_before {
            0 => format!("{last_hour}, none the hour before"),
            _ => format!("{last_hour}, {hour_before} the hour before"),
        };
        Self { status, reason: reason.as_deref().map(words::explain).unwrap_or_default(), text, class }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_stacked_and_as_high_as_their_share_of_the_largest() {
        let start = |minute: u64| Timestamp::from_secs(minute * 60);
        let interval = |minute, counts: &[(&'static str, u32)]| Interval {
            start: start(minute),
            counts: counts.iter().copied().collect(),
        };
        let intervals = [
            interval(0, &[]),
            interval(1, &[("unlocked", 3), ("refused", 1)]),
            interval(2, &[("unlocked", 2)]),
        ];
        let chart = Chart::draw(&intervals, Window::Hour);
        let drawn: Vec<_> =
            chart.bars.iter().map(|bar| (bar.status, bar.x, bar.y.as_str(), bar.height.as_str())).collect();
        assert_eq!(
            drawn,
            [
                ("unlocked", 11, "25.00", "75.00"),
                ("refused", 11, "0.00", "25.00"),
                ("unlocked", 21, "50.00", "50.00")
            ]
        );
        assert_eq!((chart.max, chart.width, chart.from.as_str()), (4, 30, "00:00"));
        assert_eq!(chart.hovers[0].text, "from 00:01: 1 refused, 3 unlocked");
        assert_eq!(chart.rows[0].counts, [2, 0], "the latest first");
        assert_eq!(Chart::draw(&[interval(0, &[])], Window::Week).totals.len(), 0);
    }

    #[test]
    fn more_failures_are_worse_and_more_unlocks_are_better() {
        let line = |status, last_hour, hour_before| {
            ChangeLine::from(Change { status, reason: Some("timeout".to_owned()), last_hour, hour_before })
        };
        assert_eq!((line("refused", 5, 0).class, line("refused", 0, 5).class), ("worse", "better"));
        assert_eq!((line("unlocked", 5, 9).class, line("unlocked", 9, 5).class), ("worse", "better"));
        assert_eq!(line("abandoned", 5, 0).text, "5, none the hour before");
        assert_eq!(line("abandoned", 1, 2).reason, "Trackfinity did not answer in time");
    }
}
