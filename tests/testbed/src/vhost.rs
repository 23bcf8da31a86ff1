//! A vhost of its own for each user of a broker.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::management::Management;
use crate::node::{RabbitNode, block_on_node_runtime};

/// A vhost of a node, deleted when dropped.
pub struct Vhost {
    name: String,
    amqp_url: String,
    management: Management,
    /// Not needed on a test's own node, which is deleted.
    delete: bool,
}

impl Vhost {
    pub(crate) async fn create(node: &RabbitNode) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // A broker may outlive many test processes, so that a process id occurs again.
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        let name = format!("kit-{}-{millis}-{count}", std::process::id());
        let management = node.management(&name);
        management.create_vhost().await;
        Self { amqp_url: node.amqp_url(&name), name, management, delete: !node.is_own() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// For example `amqp://guest:guest@127.0.0.1:12345/kit-1-2-3`.
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// The same vhost as another user.
    pub fn amqp_url_as(&self, user: &str, password: &str) -> String {
        self.changed(|url| {
            url.set_username(user).expect("a URL with a host");
            url.set_password(Some(password)).expect("a URL with a host");
        })
    }

    /// The same vhost through another loopback port, such as a proxy's.
    pub fn amqp_url_on_port(&self, port: u16) -> String {
        self.changed(|url| {
            url.set_host(Some("127.0.0.1")).expect("a valid host");
            url.set_port(Some(port)).expect("a URL with a host");
        })
    }

    fn changed(&self, change: impl FnOnce(&mut url::Url)) -> String {
        let mut url = url::Url::parse(&self.amqp_url).expect("its own URL parses");
        change(&mut url);
        url.into()
    }

    pub fn management(&self) -> &Management {
        &self.management
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        if !self.delete {
            return;
        }
        // Its own client: the other one's connections belong to a runtime that this call may block.
        let management = self.management.anew();
        let deleted =
            block_on_node_runtime(Duration::from_secs(10), async move { management.delete_vhost().await });
        if !matches!(deleted, Some(Ok(()))) {
            eprintln!("testbed: vhost {} was not deleted: {deleted:?}", self.name);
        }
    }
}
