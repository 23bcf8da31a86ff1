//! A RabbitMQ container, by the `docker` command.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, io, process};

use tokio::process::Command;

use super::{block_on_node_runtime, output, say};
use crate::ports::free_port;
use crate::watchdog::Watchdog;

const DEFAULT_IMAGE: &str = "rabbitmq:4.0-management";
const ENGINE_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const PULLED_WITHIN: Duration = Duration::from_secs(300);
const DONE_WITHIN: Duration = Duration::from_secs(60);
const REMOVED_WITHIN: Duration = Duration::from_secs(20);

pub(super) struct DockerNode {
    pub(super) image: String,
    pub(super) amqp_port: u16,
    pub(super) management_port: u16,
    name: String,
    watchdog: Watchdog,
}

impl DockerNode {
    pub(super) async fn start(conf: &str) -> Result<Self, String> {
        let image = Self::look_for_image().await?;
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let name = format!("kit-rabbitmq-{}-{nanos}", process::id());
        // The watchdog gets the name before the container exists: there is no moment in which nobody would remove it.
        let watchdog = Watchdog::start();
        watchdog.container(&name);
        let node = Self { image, amqp_port: free_port(), management_port: free_port(), name, watchdog };
        match node.launch(conf).await {
            Ok(()) => Ok(node),
            Err(error) => Err(format!("{} can't be started ({error})", node.image)),
        }
    }

    /// Readiness is not taken from the image's health check or log: the caller speaks AMQP to it.
    async fn launch(&self, conf: &str) -> Result<(), String> {
        // Fixed host ports, so that they are the same after a restart; on loopback only.
        let amqp = format!("127.0.0.1:{}:5672", self.amqp_port);
        let management = format!("127.0.0.1:{}:15672", self.management_port);
        let ports = ["--publish", &amqp, "--publish", &management];
        docker(&[&["create", "--name", &self.name][..], &ports, &[&self.image]].concat()).await?;
        self.configure(conf).await?;
        self.start_again().await
    }

    /// A copy, not a mount: the engine may run on another machine.
    async fn configure(&self, conf: &str) -> Result<(), String> {
        let directory = env::temp_dir().join(&self.name);
        // The directory, and not the file alone: not every image has one.
        let conf_d = directory.join("conf.d");
        let copied = match write(&conf_d, &format!("loopback_users.guest = false\n{conf}")) {
            Ok(()) => {
                let target = format!("{}:/etc/rabbitmq/", self.name);
                docker(&["cp", &conf_d.display().to_string(), &target]).await.map(drop)
            }
            Err(error) => Err(format!("{}: {error}", conf_d.display())),
        };
        // Gone already is as good.
        fs::remove_dir_all(&directory).ok();
        copied
    }

    /// The image's name, once an engine holds it.
    pub(super) async fn look_for_image() -> Result<String, String> {
        let image = env::var("UNLOCKER_TEST_RABBITMQ_IMAGE").ok().filter(|image| !image.is_empty());
        let image = image.unwrap_or_else(|| DEFAULT_IMAGE.into());
        let version = ["version", "--format", "{{.Server.Version}}"];
        docker_within(ENGINE_ANSWERS_WITHIN, &version)
            .await
            .map_err(|error| format!("no Docker engine answers ({error})"))?;
        if docker(&["image", "inspect", &image]).await.is_err() {
            say(&format!("pulling {image}"));
            docker_within(PULLED_WITHIN, &["pull", "--quiet", &image])
                .await
                .map_err(|error| format!("{image} can't be pulled ({error})"))?;
        }
        Ok(image)
    }

    pub(super) async fn kill(&self) -> Result<(), String> {
        docker(&["kill", "--signal", "KILL", &self.name]).await?;
        // `kill` returns before it is dead.
        docker(&["wait", &self.name]).await.map(drop)
    }

    pub(super) async fn start_again(&self) -> Result<(), String> {
        docker(&["start", &self.name]).await.map(drop)
    }

    pub(super) async fn pause(&self) -> Result<(), String> {
        docker(&["pause", &self.name]).await.map(drop)
    }

    pub(super) async fn unpause(&self) -> Result<(), String> {
        docker(&["unpause", &self.name]).await.map(drop)
    }

    pub(super) async fn rabbitmqctl(&self, args: &[&str]) -> Result<String, String> {
        docker(&[&["exec", &self.name, "rabbitmqctl"], args].concat()).await
    }
}

impl Drop for DockerNode {
    fn drop(&mut self) {
        let name = self.name.clone();
        let removed = block_on_node_runtime(REMOVED_WITHIN, async move {
            docker(&["rm", "--force", "--volumes", &name]).await
        });
        if matches!(removed, Some(Ok(_))) {
            self.watchdog.forget_container(&self.name);
        }
    }
}

/// The broker has a user of its own in the container, and must be able to read it.
fn write(conf_d: &Path, conf: &str) -> io::Result<()> {
    let file = conf_d.join("90-kit.conf");
    fs::create_dir_all(conf_d)?;
    fs::write(&file, conf)?;
    fs::set_permissions(conf_d, Permissions::from_mode(0o755))?;
    fs::set_permissions(file, Permissions::from_mode(0o644))
}

async fn docker(args: &[&str]) -> Result<String, String> {
    docker_within(DONE_WITHIN, args).await
}

async fn docker_within(limit: Duration, args: &[&str]) -> Result<String, String> {
    output(Command::new("docker").args(args), limit).await
}
