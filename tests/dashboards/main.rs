//! Compares the dashboard, the alerts and the runbook with the metrics of a running worker and gateway, as promtool and
//! Debian's Prometheus read them.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod gateway;
mod promql;
#[allow(dead_code)]
#[path = "../it/world.rs"]
mod world;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use kit::{AMQPValue, Answer, Call, Context, FieldTable, Process, Program, Properties, Trackfinity};
use serde_json::Value;
use url::Url;

use self::{
    gateway::Gateway,
    promql::selectors,
    world::{DEAD, EXCHANGE, REQUEST, RESULTS, SOON, id, start_worker},
};

const LIMIT: Duration = Duration::from_secs(240);
const HOW_TO_GET_IT: &str = "run scripts/get-prometheus, or install Debian's package prometheus";
const RUNBOOK_URL: &str =
    "https://github.com/trackfinity-unlocker/trackfinity-unlocker/blob/main/docs/runbook.md#";
/// The worker and the gateway that `deploy/prometheus/prometheus.yaml` scrapes.
const SCRAPED_ADDRESSES: [&str; 2] = ["127.0.0.1:9464", "127.0.0.1:9465"];

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    let panels = panels();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel.id).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for panel in panels {
        assert!(panel.description.ends_with('.'), "{} has no description", panel.title);
        assert!(!panel.unit.is_empty(), "{} has no unit", panel.title);
        assert!(!panel.queries.is_empty(), "{} has no query", panel.title);
    }
}

#[test]
fn every_alert_has_a_severity_texts_a_section_in_the_runbook_and_a_test() {
    let sections = anchors();
    let tests = deployed("prometheus/alerts_test.yaml");
    for alert in alerts() {
        let name = &alert.name;
        assert!(["critical", "warning", "info"].contains(&alert.severity.as_str()), "{name}");
        assert!(!alert.summary.is_empty() && !alert.description.is_empty(), "{name}");
        let anchor = alert.runbook_url.strip_prefix(RUNBOOK_URL);
        let anchor = anchor.unwrap_or_else(|| panic!("{name}: {} is not in the runbook", alert.runbook_url));
        assert!(sections.contains(anchor), "{name}: the runbook has no section #{anchor}");
        let fires = format!(r#"ALERTS{{alertname="{name}",alertstate="firing""#);
        assert!(tests.contains(&fires), "no test lets {name} fire");
    }
}

#[test]
fn a_live_worker_and_gateway_have_every_metric_that_the_dashboard_and_the_alerts_ask_for() {
    kit::run_within(LIMIT, async |ctx| {
        let directory = Directory::new();
        let worker = Eventful::start(&ctx).await;
        check_with_promtool(&worker.metrics().await);
        let gateway = Gateway::start(&ctx).await;
        check_with_promtool(&gateway.metrics().await);

        let prometheus = Prometheus::start(&ctx, [&worker.ops, &gateway.ops], &directory).await;
        prometheus.wait_for("unlocker_requests_total").await;
        prometheus.wait_for_rules(alerts().into_iter().map(|alert| alert.name).collect()).await;
        for query in panels().into_iter().flat_map(|panel| panel.queries) {
            prometheus.wait_for(&query).await;
        }
        for selector in alerts().iter().flat_map(|alert| selectors(&alert.expr)) {
            prometheus.wait_for(&selector).await;
        }
    });
}

/// A worker for which every metric has a value.
struct Eventful {
    ops: String,
    _worker: Process,
    _trackfinity: Trackfinity,
}

impl Eventful {
    async fn start(ctx: &Context) -> Self {
        let trackfinity = Trackfinity::start(|call: &Call| match call.field("customer_id").as_deref() {
            Some("unknown") => Answer::status(404),
            Some("down") => Answer::status(503),
            _ => Answer::unlocked(),
        });
        let ops = format!("127.0.0.1:{}", kit::free_port());
        let settings = [
            ("OPS__LISTEN", ops.as_str()),
            ("RETRY__MAX_ATTEMPTS", "2"),
            ("RETRY__MAX_DELAY", "1s"),
            ("RETRY__GIVE_UP_AFTER", "3s"),
        ];
        let (line, amqp_url) = ctx.cutter().await;
        let worker = start_worker(ctx, &amqp_url, &trackfinity.url(), &settings).await;
        let world = Self { ops, _worker: worker, _trackfinity: trackfinity };
        let amqp = ctx.amqp().await;
        let management = ctx.vhost().management();
        let publish = async |properties: Properties, customer: &str| {
            let body = format!(r#"{{"customer_id":"{customer}"}}"#);
            amqp.publish(EXCHANGE, REQUEST, properties, body.as_bytes()).await;
        };

        // No queue is bound for outcomes, and nobody waits for the reply.
        publish(id("1").with_reply_to("amq.gen-nobody".into()), "known").await;
        world.wait_for(r#"unlocker_requests_total{reason="",status="unlocked"} 1"#).await;
        world.wait_for(r#"unlocker_publish_unroutable_total{kind="outcome"}"#).await;
        world.wait_for(r#"unlocker_publish_unroutable_total{kind="reply"}"#).await;

        let retry = format!("{EXCHANGE}.retry");
        management.delete_binding(&retry, &format!("{retry}.1s"), "1s").await;
        publish(id("2"), "down").await;
        world.wait_for(r#"unlocker_publish_unroutable_total{kind="retry"}"#).await;
        world.wait_for(r#"unlocker_requests_total{reason="http_503",status="abandoned"} 1"#).await;

        management.delete_binding(DEAD, DEAD, "").await;
        publish(id("3"), "unknown").await;
        world.wait_for(r#"unlocker_publish_unroutable_total{kind="dead_letter"}"#).await;
        world.wait_for(r#"unlocker_requests_total{reason="http_404",status="refused"} 1"#).await;

        // A listener whose queue refuses everything.
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        amqp.declare_queue("full", arguments).await;
        amqp.bind("full", RESULTS, "unlock.invalid").await;
        publish(id("4"), "").await;
        world.wait_for(r#"unlocker_outcomes_postponed_total{cause="refused",status="invalid"}"#).await;
        world.wait_for(r#"unlocker_outcomes_given_up_total{status="invalid"} 1"#).await;
        world.wait_for(r#"unlocker_requests_total{reason="no_identifier",status="invalid"} 1"#).await;

        line.reset_all().await;
        world.wait_for("unlocker_broker_reconnects_total 1").await;
        world.wait_for("unlocker_broker_connected 1").await;
        // The line lasts as long as the test.
        ctx.spawn(async move {
            let _line = line;
            std::future::pending::<()>().await;
        });
        world
    }

    async fn metrics(&self) -> String {
        get(&format!("http://{}/metrics", self.ops)).await.expect("metrics")
    }

    async fn wait_for(&self, line: &str) {
        kit::eventually(line, SOON, async || self.metrics().await.contains(line)).await;
    }
}

fn check_with_promtool(metrics: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}: {HOW_TO_GET_IT}"));
    promtool.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{metrics}");
}

/// Debian's Prometheus, with the configuration of `deploy/`, watching one worker and one gateway.
struct Prometheus {
    address: String,
    _process: Process,
}

impl Prometheus {
    async fn start(ctx: &Context, processes: [&str; 2], directory: &Directory) -> Self {
        // The job of the gateways is a comment, for those who have gateways.
        let mut configuration = deployed("prometheus/prometheus.yaml")
            .replace("\n  # - job_name", "\n  - job_name")
            .replace("\n  #   ", "\n    ");
        for (scraped, process) in SCRAPED_ADDRESSES.into_iter().zip(processes) {
            assert!(configuration.contains(scraped));
            configuration = configuration.replace(scraped, process);
        }
        let configuration = configuration.replace("15s", "3s").replace("5s", "3s");
        let file = directory.0.join("prometheus.yaml");
        fs::write(&file, configuration).expect("written");
        fs::write(directory.0.join("alerts.yaml"), deployed("prometheus/alerts.yaml")).expect("written");
        let present = Command::new("prometheus").arg("--version").output();
        present.unwrap_or_else(|error| panic!("prometheus: {error}: {HOW_TO_GET_IT}"));
        let address = format!("127.0.0.1:{}", kit::free_port());
        let program = Program::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.0.join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let process = ctx.start(&program);
        let ready = format!("http://{address}/-/ready");
        kit::eventually("Prometheus is ready", SOON, async || get(&ready).await).await;
        Self { address, _process: process }
    }

    /// Waits until an expression has a result.
    async fn wait_for(&self, expr: &str) {
        kit::eventually(expr, SOON, async || {
            let result = self.ask("query", &[("query", expr)]).await?;
            let samples = result["result"].as_array().map_or(0, Vec::len);
            if samples > 0 { Ok(()) } else { Err("no series".to_owned()) }
        })
        .await;
    }

    /// Waits until all these rules, and no others, were evaluated without an error.
    async fn wait_for_rules(&self, names: BTreeSet<String>) {
        kit::eventually("all rules are evaluated", SOON, async || {
            let found = self.ask("rules", &[]).await?;
            let groups = found["groups"].as_array().into_iter().flatten();
            let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
            let healthy = rules.filter(|rule| rule["health"] == "ok").map(|rule| text(&rule["name"]));
            if healthy.collect::<BTreeSet<_>>() == names { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    }

    async fn ask(&self, what: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let url = Url::parse_with_params(&format!("http://{}/api/v1/{what}", self.address), parameters);
        let answer = get(url.expect("a URL").as_str()).await?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        Ok(answer["data"].clone())
    }
}

/// The body of a successful answer.
async fn get(url: &str) -> Result<String, String> {
    // No trust store is read: it takes longer than the call.
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(SOON).build();
    let answer = client.expect("a client").get(url).send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| error.to_string())?;
    if status.is_success() { Ok(body) } else { Err(format!("{url} answered {status}: {body}")) }
}

/// A temporary directory, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("unlocker-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn deployed(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

struct Panel {
    id: u64,
    title: String,
    description: String,
    unit: String,
    /// With the dashboard's variables filled in.
    queries: Vec<String>,
}

/// The dashboard's panels without its rows.
fn panels() -> Vec<Panel> {
    let dashboard: Value =
        serde_json::from_str(&deployed("grafana/trackfinity-unlocker.json")).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("a dashboard has panels");
    let panels: Vec<_> = panels.iter().filter(|panel| panel["type"] != "row").map(panel).collect();
    assert!(panels.len() > 20, "only {} panels were found: they are read wrongly", panels.len());
    panels
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn panel(panel: &Value) -> Panel {
    let targets = panel["targets"].as_array().expect("a panel has targets");
    Panel {
        id: panel["id"].as_u64().expect("a panel has an id"),
        title: text(&panel["title"]),
        description: text(&panel["description"]),
        unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
        queries: targets.iter().map(|target| filled_in(&text(&target["expr"]))).collect(),
    }
}

fn filled_in(query: &str) -> String {
    let query = query.replace("$__rate_interval", "1m");
    let query = ["$job", "$instance", "$gateway"].iter().fold(query, |query, name| query.replace(name, ".*"));
    assert!(!query.contains('$'), "{query} has a variable that is not known here");
    query
}

#[derive(Default)]
struct Alert {
    name: String,
    expr: String,
    severity: String,
    summary: String,
    description: String,
    runbook_url: String,
}

/// The alerts. Reads no more of YAML than the file uses: keys with a value beside them, or a block below.
fn alerts() -> Vec<Alert> {
    let text = deployed("prometheus/alerts.yaml");
    let mut alerts: Vec<Alert> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((key, value)) = line.trim_start_matches([' ', '-']).split_once(": ") else {
            continue;
        };
        let mut value = value.trim_matches('\'').to_owned();
        if value.starts_with('|') {
            let indentation = line.len() - line.trim_start().len();
            let below = |line: &&str| line.len() - line.trim_start().len() > indentation;
            value.clear();
            while let Some(line) = lines.next_if(below) {
                value = value + line.trim_start() + "\n";
            }
        }
        if key == "alert" {
            alerts.push(Alert { name: value, ..Alert::default() });
        } else if let Some(alert) = alerts.last_mut() {
            match key {
                "expr" => alert.expr = value,
                "severity" => alert.severity = value,
                "summary" => alert.summary = value,
                "description" => alert.description = value,
                "runbook_url" => alert.runbook_url = value,
                _ => {}
            }
        }
    }
    assert!(alerts.len() > 10, "only {} alerts were found: they are read wrongly", alerts.len());
    assert_eq!(alerts.len(), text.matches("- alert:").count());
    alerts
}

/// The anchors of the runbook's sections, as GitHub makes them.
fn anchors() -> BTreeSet<String> {
    let runbook = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md");
    let runbook = fs::read_to_string(runbook).expect("docs/runbook.md");
    let headings = runbook.lines().filter(|line| line.starts_with('#'));
    let kept = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    headings.map(|line| line.trim_start_matches('#').trim().chars().filter_map(kept).collect()).collect()
}
