//! Wrong names, values and files.

use crate::mistakes::mistake::{Mistake, settings, typed, variable};

pub fn mistakes() -> Vec<Mistake> {
    let mut all = trackfinity();
    all.extend(broker());
    all.extend(values());
    all.extend(console());
    all.extend(names());
    all
}

fn trackfinity() -> Vec<Mistake> {
    let base_url = |what, value| variable(what, "UNLOCKER__TRACKFINITY__BASE_URL", value);
    vec![
        settings("Trackfinity's section without its keys", "[trackfinity]\ntimeout = \"10s\"\n"),
        base_url("Trackfinity's address without https", "yourcompany.trackfinity.com"),
        base_url("Trackfinity's address without TLS", "http://yourcompany.trackfinity.com"),
        base_url("Trackfinity's address with /api", "https://yourcompany.trackfinity.com/api"),
        base_url(
            "Trackfinity's address from its documentation",
            "https://yourcompany.trackfinity.com/api/customer/unlock",
        ),
        base_url("The key in Trackfinity's address", "https://user:key@yourcompany.trackfinity.com"),
        base_url("A query in Trackfinity's address", "https://yourcompany.trackfinity.com/?key=1"),
        variable("A key with a line break at its end", "UNLOCKER__TRACKFINITY__API_KEY", "the-key\n"),
        variable("A key's file that does not exist", "UNLOCKER__TRACKFINITY__API_KEY_FILE", "DIR/api-key"),
        variable(
            "The key itself where its file belongs",
            "UNLOCKER__TRACKFINITY__API_KEY_FILE",
            "abcdef0123456789",
        ),
        typed("The key twice", "run")
            .with("UNLOCKER__TRACKFINITY__API_KEY", "abc")
            .with("UNLOCKER__TRACKFINITY__API_KEY_FILE", "/run/secrets/api-key"),
        variable("A timeout of nothing", "UNLOCKER__TRACKFINITY__TIMEOUT", "0s"),
        variable("A file of authorities that does not exist", "UNLOCKER__TRACKFINITY__CA_FILE", "DIR/ca.pem"),
        variable("A proxy without http", "UNLOCKER__TRACKFINITY__PROXY", "proxy:3128"),
        variable("A proxy over TLS", "UNLOCKER__TRACKFINITY__PROXY", "https://proxy:3128"),
        variable("A proxy without its port", "UNLOCKER__TRACKFINITY__PROXY", "http://proxy.example.com"),
        variable(
            "A proxy's password with a # in it",
            "UNLOCKER__TRACKFINITY__PROXY",
            "http://u:pass#word@proxy:3128",
        ),
        variable(
            "The proxy itself where its file belongs",
            "UNLOCKER__TRACKFINITY__PROXY_FILE",
            "http://u:secret@proxy:3128",
        ),
    ]
}

fn broker() -> Vec<Mistake> {
    let url = |what, value| variable(what, "UNLOCKER__BROKER__URL", value);
    vec![
        url("RabbitMQ's address without amqp", "rabbit-0:5672"),
        url("The address of RabbitMQ's page", "http://rabbit-0:15672"),
        url("A password with a # in it", "amqp://unlocker:pass#word@rabbit-0/prod"),
        url("A password with a / in it", "amqp://unlocker:pass/word@rabbit-0/prod"),
        url("A port that no system has", "amqp://unlocker:secret@rabbit-0:99999/prod"),
        url("A misspelt parameter", "amqp://unlocker:secret@rabbit-0/prod?heartbeats=10"),
        url("A comma at the end", "amqp://unlocker:secret@rabbit-0/prod,"),
        variable("A token's file that does not exist", "UNLOCKER__BROKER__TOKEN_FILE", "DIR/token")
            .with("UNLOCKER__BROKER__URL", "amqp://rabbit-0/prod"),
        settings("A file that holds no token", "[broker]\ntoken_file = \"DIR/settings.toml\"\n")
            .with("UNLOCKER__BROKER__URL", "amqp://rabbit-0/prod"),
        variable(
            "The token itself where its file belongs",
            "UNLOCKER__BROKER__TOKEN_FILE",
            "eyJhbGciOiJub25lIn0.e30.c2ln",
        )
        .with("UNLOCKER__BROKER__URL", "amqp://rabbit-0/prod"),
        settings(
            "A certificate that is none, without its key",
            "[broker]\nclient_certificate_file = \"DIR/settings.toml\"\n",
        )
        .with("UNLOCKER__BROKER__URL", "amqps://rabbit-0/prod"),
        url(
            "The certificate as the login, without a certificate",
            "amqps://rabbit-0/prod?auth_mechanism=external",
        ),
        variable("A prefix with a blank", "UNLOCKER__TOPOLOGY__PREFIX", "my unlocks"),
        variable("RabbitMQ's own prefix", "UNLOCKER__TOPOLOGY__PREFIX", "amq.unlock"),
        variable("Yes instead of true", "UNLOCKER__BROKER__DECLARE", "yes"),
    ]
}

fn values() -> Vec<Mistake> {
    vec![
        variable("No concurrency", "UNLOCKER__WORKER__CONCURRENCY", "0"),
        variable("A concurrency that a quorum queue does not allow", "UNLOCKER__WORKER__CONCURRENCY", "5000"),
        variable("A concurrency in words", "UNLOCKER__WORKER__CONCURRENCY", "max"),
        variable("A rate with a unit", "UNLOCKER__WORKER__RATE_LIMIT", "10/s"),
        settings("A duration without a unit", "[worker]\ndrain_timeout = 25\n"),
        variable("A misspelt unit", "UNLOCKER__TRACKFINITY__TIMEOUT", "10 sekunden"),
        variable("A delay that is longer than every tier", "UNLOCKER__RETRY__MAX_DELAY", "1h"),
        variable("A longer delay of probes alone", "UNLOCKER__PAUSE__PROBE_DELAY", "60s"),
        settings("A number in quotes that is none", "[retry]\nmax_attempts = \"twelve\"\n"),
        settings("A list where one value belongs", "[worker]\nconcurrency = [64]\n"),
        variable("The program's name where its target belongs", "RUST_LOG", "unlocker=debug")
            .until("RUST_LOG"),
        variable("Semicolons between levels", "RUST_LOG", "info;lapin=debug").until("RUST_LOG"),
        variable("A log of nothing", "UNLOCKER__LOG__REQUESTS", "none"),
        variable("A port alone to listen on", "UNLOCKER__OPS__LISTEN", ":9464"),
        variable("A host name to listen on", "UNLOCKER__OPS__LISTEN", "localhost:9464"),
    ]
}

fn console() -> Vec<Mistake> {
    let of = |what, variable: &'static str, value: &'static str| typed(what, "console").with(variable, value);
    let open = |what| of(what, "UNLOCKER__CONSOLE__LISTEN", "0.0.0.0:8090");
    let (viewer, operator) = ("UNLOCKER__CONSOLE__VIEWER_TOKEN", "UNLOCKER__CONSOLE__OPERATOR_TOKEN");
    vec![
        open("A console for everyone without tokens"),
        open("Tokens that can be guessed").with(viewer, "viewer").with(operator, "operator"),
        open("One token for both").with(viewer, "0123456789abcdef").with(operator, "0123456789abcdef"),
        of("The console where health is served", "UNLOCKER__CONSOLE__LISTEN", "127.0.0.1:9464")
            .with("UNLOCKER__OPS__LISTEN", "127.0.0.1:9464"),
        of("An audit log in a missing directory", "UNLOCKER__CONSOLE__AUDIT_LOG", "DIR/missing/audit.jsonl"),
        of("A host with its scheme", "UNLOCKER__CONSOLE__ALLOWED_HOSTS", "https://unlocker.example.com"),
        of(
            "A trace's address without the trace",
            "UNLOCKER__CONSOLE__TRACE_URL",
            "https://jaeger.example.com",
        ),
        of("A key of an earlier version", "UNLOCKER__ADMIN__LISTEN", "127.0.0.1:8090"),
    ]
}

fn names() -> Vec<Mistake> {
    vec![
        settings("A misspelt key", "[worker]\nconcurency = 8\n"),
        settings("A misspelt section", "[workr]\nconcurrency = 8\nrate_limit = 10\n"),
        settings("A key of another section", "[retry]\nconcurrency = 8\n"),
        settings("A key outside its section", "concurrency = 8\n"),
        settings("A key with its section in quotes", "\"worker.concurrency\" = 8\n"),
        variable("A variable with one underscore", "UNLOCKER_WORKER_CONCURRENCY", "8"),
        variable(
            "A variable with one underscore between section and key",
            "UNLOCKER__WORKER_CONCURRENCY",
            "8",
        ),
        variable("A misspelt variable", "UNLOCKER__WORKER__CONCURENCY", "8"),
        typed("A settings file that does not exist", "run --config DIR/unlocker.toml"),
        typed("A directory as the settings file", "run --config DIR/."),
        settings("YAML instead of TOML", "worker:\n  concurrency: 8\n"),
        settings("A value without quotes", "[topology]\nprefix = my.unlocks\n"),
    ]
}
