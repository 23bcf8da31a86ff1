//! A gateway for which every metric has a value.

use kit::{Context, Process, Program};

use crate::world::{EXCHANGE, REQUEST, REQUESTS, SOON};

/// A gateway that has taken a request, and refused one because no queue received it.
pub struct Gateway {
    pub ops: String,
    _process: Process,
}

impl Gateway {
    /// Starts it, and removes the binding of the queue of requests.
    pub async fn start(ctx: &Context) -> Self {
        let [listen, ops] = [(); 2].map(|()| format!("127.0.0.1:{}", kit::free_port()));
        let program = Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .arg("gateway")
            .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
            .env("UNLOCKER__GATEWAY__LISTEN", &listen)
            .env("UNLOCKER__OPS__LISTEN", &ops);
        let gateway = Self { ops, _process: ctx.start(&program) };
        let ready = format!("http://{}/readyz", gateway.ops);
        kit::eventually("the gateway is ready", SOON, async || crate::get(&ready).await).await;

        let url = format!("http://{listen}/v1/unlocks");
        assert_eq!(unlock(&url).await, 202);
        ctx.vhost().management().delete_binding(EXCHANGE, REQUESTS, REQUEST).await;
        assert_eq!(unlock(&url).await, 503);
        gateway
    }

    pub async fn metrics(&self) -> String {
        crate::get(&format!("http://{}/metrics", self.ops)).await.expect("metrics")
    }
}

/// The status of the answer.
async fn unlock(url: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(SOON).build();
    let request = client.expect("a client").post(url).header("content-type", "application/json");
    let answer = request.body(r#"{"customer_id":"191"}"#).send().await.expect("an answer");
    answer.status().as_u16()
}
