//! A producer that is instrumented with OpenTelemetry for Python.

use std::{fs, path::PathBuf, process::Command};

use kit::{Otlp, SpanKind};

use super::*;

const PACKAGES: [&str; 4] = [
    "pika",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-instrumentation-pika",
];

/// Publishes a request as its documentation shows it: the instrumentation makes the span and sets
/// the header.
const PRODUCER: &str = r#"
import os
import pika
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.pika import PikaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
PikaInstrumentor().instrument()

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()
with trace.get_tracer("shop").start_as_current_span("pay"):
    channel.basic_publish(
        "trackfinity.unlock", "request", b'{"customer_id": 191}',
        pika.BasicProperties(message_id="m-1", content_type="application/json"), mandatory=True)
connection.close()
provider.shutdown()
"#;

/// The Python of an environment that has the packages; made once, and kept.
fn python() -> PathBuf {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python-producer");
    let (python, ready) = (home.join("bin/python"), home.join("ready"));
    fs::create_dir_all(&home).expect("a directory");
    // Test processes run at the same time: one makes it, the others wait.
    let lock = fs::File::create(home.join("lock")).expect("a file");
    lock.lock().expect("locked");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&ready).is_ok_and(|made| made == wanted) {
        return python;
    }
    let venv = Command::new("python3").args(["-m", "venv"]).arg(&home).output();
    match venv {
        Ok(made) if made.status.success() => {}
        Ok(made) => panic!(
            "python3 makes no virtual environment: install its venv module (Debian: apt-get install \
             python3-venv)\n{}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        ),
        Err(error) => {
            panic!("python3 does not start: install it (Debian: apt-get install python3-venv): {error}")
        }
    }
    let pip = Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES).output();
    let pip = pip.expect("the environment's Python starts");
    let errors = String::from_utf8_lossy(&pip.stderr);
    assert!(
        pip.status.success(),
        "pip installs no {PACKAGES:?}: the test needs them from PyPI, once\n{errors}"
    );
    fs::write(&ready, wanted).expect("written");
    python
}

#[test]
fn a_producer_instrumented_with_opentelemetry_for_python_and_the_worker_are_one_trace() {
    let python = python();
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), two_503s).await;
        let producer = kit::Program::new(python)
            .args(["-c", PRODUCER])
            .env("AMQP_URL", world.ctx.amqp_url())
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url())
            .env("OTEL_SERVICE_NAME", "shop");
        let producer = world.ctx.start(&producer);
        let status = producer.wait_exit(SOON).await;
        assert!(status.success(), "{:#?}", producer.stderr());
        assert_eq!(world.outcome().await["attempts"], 3);
        let spans = otlp.wait_spans(2 + 9, SOON).await;
        let theirs: Vec<_> =
            spans.iter().filter(|span| span.resource["service.name"] == "shop".into()).collect();
        let publish = theirs.iter().find(|span| span.kind == SpanKind::Producer).expect("their publish span");
        let pay = theirs.iter().find(|span| span.name == "pay").expect("their own span");
        assert_eq!(publish.parent.as_ref(), Some(&pay.span_id));
        for span in &spans {
            assert_eq!(span.trace_id, pay.trace_id, "{}", span.name);
        }
        let processed = named(&spans, PROCESS);
        assert_eq!(processed.len(), 3, "{:?}", names(&spans));
        for process in processed {
            assert_eq!(
                process.parent.as_ref(),
                Some(&publish.span_id),
                "the publish is the parent of each attempt"
            );
            assert_eq!(process.links, [(publish.trace_id.clone(), publish.span_id.clone(), String::new())]);
        }
        world.stop().await;
    });
}
