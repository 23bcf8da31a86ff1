//! An OpenTelemetry collector that takes everything over HTTP and keeps nothing; and one that never answers.

use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use futures_util::StreamExt;
use kit::{Otlp, Process, Program};

/// Serves until it is killed; prints its address on its first line.
pub fn serve() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        let app = Router::new().fallback(async |request: Request<Body>| {
            let mut chunks = request.into_body().into_data_stream();
            while let Some(Ok(_)) = chunks.next().await {}
        });
        axum::serve(listener, app).await.expect("served");
    });
    ExitCode::SUCCESS
}

pub enum Collector {
    Taking { _process: Process, url: String },
    Hung(Otlp),
}

impl Collector {
    pub async fn taking() -> Self {
        let process = Program::new(std::env::current_exe().expect("a path")).arg("role-collector").start();
        let address = process.wait_for_line(|_| true, Duration::from_secs(10)).await;
        Self::Taking { _process: process, url: format!("http://{address}") }
    }

    pub fn hung() -> Self {
        Self::Hung(Otlp::hung())
    }

    pub fn url(&self) -> String {
        match self {
            Self::Taking { url, .. } => url.clone(),
            Self::Hung(otlp) => otlp.url(),
        }
    }
}
