//! What stands in deploy/: the topology operator's objects are what the worker declares, and the
//! settings in the Kubernetes manifests are settings.

use std::{collections::BTreeMap, fs, path::Path};

use kit::{Answer, Management, Program, Trackfinity};
use serde_json::{Value, json};

use crate::world::{SOON, start_worker, unlocker};

/// An object's scalars by their paths, such as `spec.name`.
pub type Object = BTreeMap<String, String>;

/// The objects in a file of deploy/. As much YAML as stands there: mappings and plain scalars; a
/// linter and schemas look after the rest.
pub fn objects(file: &str) -> Vec<Object> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let objects: Vec<_> = text.split("\n---\n").map(object).filter(|object| !object.is_empty()).collect();
    assert!(!objects.is_empty(), "no object in {file}");
    objects
}

fn object(text: &str) -> Object {
    let mut object = Object::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        let indent = line.len() - line.trim_start().len();
        let (key, value) = line.trim().split_once(':').unwrap_or_else(|| panic!("{line:?}"));
        above.retain(|(other, _)| *other < indent);
        above.push((indent, key.to_owned()));
        let path: Vec<_> = above.iter().map(|(_, key)| key.as_str()).collect();
        if !value.trim().is_empty() {
            object.insert(path.join("."), value.trim().trim_matches('"').to_owned());
        }
    }
    object
}

/// Does with them what the topology operator would.
pub async fn apply_topology(management: &Management, vhost: &str) {
    apply(management, vhost, "topology-operator/topology.yaml").await;
}

/// The same with the stream of the history.
pub async fn apply_topology_with_history(management: &Management, vhost: &str) {
    apply_topology(management, vhost).await;
    apply(management, vhost, "topology-operator-history/history.yaml").await;
}

async fn apply(management: &Management, vhost: &str, file: &str) {
    for object in objects(file) {
        let spec = |key: &str| object.get(&format!("spec.{key}")).cloned().unwrap_or_default();
        assert_eq!(spec("vhost"), "/");
        let arguments: BTreeMap<_, _> = object
            .iter()
            .filter_map(|(path, value)| Some((path.strip_prefix("spec.arguments.")?, scalar(value))))
            .collect();
        let name = spec("name");
        let (path, body) = match object["kind"].as_str() {
            "Exchange" => (
                format!("/api/exchanges/{vhost}/{name}"),
                json!({"type": spec("type"), "durable": spec("durable") == "true"}),
            ),
            "Queue" => (
                format!("/api/queues/{vhost}/{name}"),
                json!({"durable": spec("durable") == "true", "arguments": arguments}),
            ),
            "Binding" => {
                let path = format!("/api/bindings/{vhost}/e/{}/q/{}", spec("source"), spec("destination"));
                let bound = management.post(&path, json!({"routing_key": spec("routingKey")})).await;
                bound.unwrap_or_else(|error| panic!("{error}"));
                continue;
            }
            "Policy" => (
                format!("/api/policies/{vhost}/{name}"),
                json!({"pattern": spec("pattern"), "apply-to": spec("applyTo"), "priority": 10,
                    "definition": {"max-length": scalar(&spec("definition.max-length"))}}),
            ),
            other => panic!("a {other} among the topology"),
        };
        management.put(&path, body).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

fn scalar(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}

/// What of a list can be compared.
fn facts(list: Vec<Value>, keys: &[&str]) -> Vec<String> {
    let own = list.into_iter().filter(|item| {
        !item["name"].as_str().is_some_and(|name| name.is_empty() || name.starts_with("amq."))
    });
    let mut facts: Vec<_> =
        own.map(|item| keys.iter().map(|key| format!("{key}={} ", item[*key])).collect::<String>()).collect();
    facts.sort();
    facts
}

async fn everything(management: &Management) -> Vec<String> {
    let mut all =
        facts(management.exchanges().await, &["name", "type", "durable", "auto_delete", "arguments"]);
    all.extend(facts(management.queues().await, &["name", "durable", "auto_delete", "arguments"]));
    all.extend(facts(management.bindings().await, &["source", "destination", "routing_key", "arguments"]));
    all
}

#[test]
fn the_topology_operators_objects_are_what_the_worker_declares() {
    kit::run(async |ctx| {
        let management = ctx.vhost().management();
        apply_topology(management, ctx.vhost().name()).await;
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let check = ctx.start(&unlocker(ctx.amqp_url(), &trackfinity.url()).arg("check"));
        assert!(check.wait_exit(SOON).await.success(), "{:#?}", check.stdout());
        let missing = check.stdout().into_iter().filter(|line| line.contains("not exist")).count();
        assert_eq!(missing, 0, "{:#?}", check.stdout());

        let other = ctx.node().vhost().await;
        let url = other.amqp_url();
        let worker = start_worker(&ctx, url, &trackfinity.url(), &[]).await;
        worker.kill9();
        worker.wait_exit(SOON).await;
        let (applied, declared) = (everything(management).await, everything(other.management()).await);
        assert_eq!(declared.len(), 4 + 14 + 14);
        assert_eq!(applied, declared);
    });
}

#[test]
fn with_the_history_the_topology_operators_objects_are_what_the_worker_declares() {
    kit::run(async |ctx| {
        let management = ctx.vhost().management();
        apply_topology_with_history(management, ctx.vhost().name()).await;
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let other = ctx.node().vhost().await;
        let on = [("HISTORY__ENABLED", "true")];
        let worker = start_worker(&ctx, other.amqp_url(), &trackfinity.url(), &on).await;
        worker.kill9();
        worker.wait_exit(SOON).await;
        let (applied, declared) = (everything(management).await, everything(other.management()).await);
        assert_eq!(declared.len(), 4 + 15 + 15);
        assert_eq!(applied, declared);
    });
}

/// The settings in a file of deploy/kubernetes, without those that name files of the cluster.
fn rendered_settings(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes").join(file);
    let text = fs::read_to_string(path).expect("the manifests");
    let (_, after) = text.split_once("  settings.toml: |\n").expect("the settings");
    after
        .lines()
        .map_while(|line| Some(format!("{}\n", line.strip_prefix("    ")?)))
        .filter(|line| !line.contains("/run/secrets/"))
        .collect()
}

#[test]
fn the_settings_in_the_kubernetes_manifests_are_valid() {
    kit::run(async |ctx| {
        let settings = rendered_settings("trackfinity-unlocker.yaml");
        assert!(settings.contains("[worker]") && settings.contains("concurrency = 64"), "{settings}");
        let file = std::env::temp_dir().join(format!("{}.toml", ctx.vhost().name()));
        fs::write(&file, &settings).expect("a file");
        let check = unlocker(ctx.amqp_url(), "http://127.0.0.1:1").arg("check").arg("--config").arg(&file);
        let check = ctx.start(&check);
        let status = check.wait_exit(SOON).await;
        fs::remove_file(&file).expect("the file");
        // Nothing is Trackfinity here, and 78 would be the settings.
        assert_eq!(status.code(), Some(1), "{:#?}{:#?}", check.stdout(), check.stderr());
        assert!(check.stdout().iter().any(|line| line == "ok    settings: valid"));
    });
}

#[test]
fn the_settings_of_the_gateway_in_the_kubernetes_manifests_are_valid() {
    kit::run(async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let settings = rendered_settings("trackfinity-unlocker-gateway.yaml");
        assert!(settings.contains("[gateway]") && settings.contains("0.0.0.0:8080"), "{settings}");
        let file = std::env::temp_dir().join(format!("{}.toml", ctx.vhost().name()));
        fs::write(&file, &settings).expect("a file");
        // A client of deploy/compose.yaml.
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/clients");
        let check = Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
            .env("UNLOCKER__GATEWAY__CLIENTS_DIR", clients)
            .args(["check", "--role", "gateway", "--config"])
            .arg(&file);
        let check = ctx.start(&check);
        let status = check.wait_exit(SOON).await;
        fs::remove_file(&file).expect("the file");
        assert!(status.success(), "{:#?}{:#?}", check.stdout(), check.stderr());
        assert!(check.stdout().iter().any(|line| line == "ok    settings: valid"));
        assert!(check.stdout().iter().any(|line| line == "ok    gateway.clients_dir: 1 client: shop"));
    });
}

#[test]
fn the_settings_of_the_console_in_the_kubernetes_manifests_are_valid() {
    kit::run(async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let settings = rendered_settings("trackfinity-unlocker-console.yaml");
        assert!(settings.contains("[console]") && settings.contains("0.0.0.0:8090"), "{settings}");
        let file = std::env::temp_dir().join(format!("{}.toml", ctx.vhost().name()));
        fs::write(&file, &settings).expect("a file");
        let check = Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
            .env("UNLOCKER__CONSOLE__VIEWER_TOKEN", "viewer-0123456789")
            .env("UNLOCKER__CONSOLE__OPERATOR_TOKEN", "operator-0123456789")
            .args(["check", "--role", "console", "--config"])
            .arg(&file);
        let check = ctx.start(&check);
        let status = check.wait_exit(SOON).await;
        fs::remove_file(&file).expect("the file");
        assert!(status.success(), "{:#?}{:#?}", check.stdout(), check.stderr());
        assert!(check.stdout().iter().any(|line| line == "ok    settings: valid"));
    });
}
