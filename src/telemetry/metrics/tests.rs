use opentelemetry_sdk::Resource;

use super::*;

#[test]
fn pauses_and_depths_are_labelled_and_unknown_depths_are_left_out() {
    let meters = Meters::from_environment(Resource::builder_empty().build()).expect("no endpoint is set");
    let metrics = Metrics::from(&meters);
    metrics.paused(Some(CauseKind::Failures));
    metrics.queues(QueueDepths { requests: Some(3), dead: None, retry: Some(0) });
    let (_, text) = meters.render().expect("metrics");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("unlocker_paused{") || line.starts_with("unlocker_queue_messages{"))
        .collect();
    assert_eq!(
        lines,
        [
            r#"unlocker_paused{cause="endpoint_fault"} 0"#,
            r#"unlocker_paused{cause="failures"} 1"#,
            r#"unlocker_paused{cause="rate_limited"} 0"#,
            r#"unlocker_queue_messages{queue="requests"} 3"#,
            r#"unlocker_queue_messages{queue="retry"} 0"#,
        ]
    );
}
