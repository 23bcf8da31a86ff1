//! A RabbitMQ container.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use futures_util::StreamExt;
use testcontainers::bollard::container::LogOutput;
use testcontainers::bollard::exec::StartExecResults;
use testcontainers::bollard::models::{ExecConfig, PortBinding};
use testcontainers::bollard::query_parameters::KillContainerOptionsBuilder;
use testcontainers::core::IntoContainerPort;
use testcontainers::core::client::docker_client_instance;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::time::{Instant, sleep, timeout};

use super::container_member::Member;
use super::{NodeOptions, block_on_node_runtime, on_node_runtime, say};
use crate::ports::free_port;
use crate::process::cpu_time_where;
use crate::watchdog::Watchdog;

/// Where a node's files are in the container.
const FILES: &str = "/etc/rabbitmq";
const DEFAULT_IMAGE: &str = "rabbitmq:4.0-management";
const ENGINE_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const PAUSED_WITHIN: Duration = Duration::from_secs(20);
const PULLED_WITHIN: Duration = Duration::from_secs(300);

pub(super) struct DockerNode {
    pub(super) image: String,
    pub(super) amqp_port: u16,
    pub(super) management_port: u16,
    name: String,
    container: Option<Arc<ContainerAsync<GenericImage>>>,
    watchdog: Watchdog,
}

impl DockerNode {
    /// A node alone, or a member of a cluster.
    pub(super) async fn start_as(member: Option<&Member>, options: &NodeOptions) -> Result<Self, String> {
        let image = Self::look_for_image().await?;
        let (repository, tag) = split(&image);

        let (amqp_port, management_port) = (free_port(), free_port());
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let name = format!("kit-rabbitmq-{}-{nanos}", std::process::id());
        let name = member.map_or(name, |member| member.name.clone());
        // Registered before the container exists, so that it is always removed.
        let watchdog = Watchdog::start();
        watchdog.container(&name);
        // Readiness is not taken from the image's health check or log: the caller speaks AMQP to it.
        let conf = options.conf_for(FILES, |_port| "5671".to_owned());
        let tls_port = options.tls_port;
        let ports = [5672, 15672].into_iter().chain(tls_port.map(|_| 5671));
        let exposing = ports.fold(GenericImage::new(repository, tag), |exposing, port| {
            exposing.with_exposed_port(port.tcp())
        });
        let mut container = exposing
            .with_container_name(&name)
            .with_copy_to(
                "/etc/rabbitmq/conf.d/90-kit.conf",
                format!("loopback_users.guest = false\n{conf}").into_bytes(),
            )
            .with_copy_to("/etc/rabbitmq/enabled_plugins", options.enabled_plugins().into_bytes());
        for (name, content) in &options.files {
            container = container.with_copy_to(format!("{FILES}/{name}"), content.clone().into_bytes());
        }
        if let Some(member) = member {
            container = container
                .with_network(&member.network)
                .with_hostname(&member.name)
                .with_env_var("RABBITMQ_NODENAME", member.node())
                .with_env_var("RABBITMQ_ERLANG_COOKIE", &member.cookie);
        }
        let container = container
            // Fixed host ports, so that they are the same after a restart; on loopback only.
            .with_host_config_modifier(move |host| {
                let bind = |port: u16| {
                    Some(vec![PortBinding {
                        host_ip: Some("127.0.0.1".into()),
                        host_port: Some(port.to_string()),
                    }])
                };
                let tls = tls_port.map(|port| ("5671/tcp".to_owned(), bind(port)));
                let plain =
                    [("5672/tcp".into(), bind(amqp_port)), ("15672/tcp".into(), bind(management_port))];
                host.publish_all_ports = Some(false);
                host.port_bindings = Some(plain.into_iter().chain(tls).collect());
            })
            .start()
            .await
            .map_err(|error| format!("{image} can't be started ({error})"))?;
        Ok(Self { image, amqp_port, management_port, name, container: Some(Arc::new(container)), watchdog })
    }

    /// Erlang's name for it, in a cluster.
    pub(super) fn name(&self) -> String {
        format!("rabbit@{}", self.name)
    }

    /// The image's name, once an engine holds it.
    pub(super) async fn look_for_image() -> Result<String, String> {
        let image = env::var("UNLOCKER_TEST_RABBITMQ_IMAGE").ok().filter(|image| !image.is_empty());
        let image = image.unwrap_or_else(|| DEFAULT_IMAGE.into());
        let (repository, tag) = split(&image);

        let present = timeout(ENGINE_ANSWERS_WITHIN, async {
            let engine = docker_client_instance().await.map_err(|error| error.to_string())?;
            engine.ping().await.map_err(|error| error.to_string())?;
            Ok::<_, String>(engine.inspect_image(&image).await.is_ok())
        });
        let present = match present.await {
            Ok(Ok(present)) => present,
            Ok(Err(error)) => return Err(format!("no Docker engine answers ({error})")),
            Err(_) => return Err("the Docker engine does not answer".into()),
        };
        if !present {
            say(&format!("pulling {image}"));
            match timeout(PULLED_WITHIN, GenericImage::new(repository, tag).pull_image()).await {
                Ok(pulled) => drop(pulled.map_err(|error| format!("{image} can't be pulled ({error})"))?),
                Err(_) => return Err(format!("{image} was not pulled within {PULLED_WITHIN:?}")),
            }
        }
        Ok(image)
    }

    pub(super) async fn kill(&self) {
        let name = self.name.clone();
        on_node_runtime(async move {
            let engine = docker_client_instance().await.expect("the Docker engine answers");
            let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
            engine.kill_container(&name, Some(options)).await.expect("docker kill");
            // Returns once it is dead; the exit code of a killed container is reported as an error.
            let mut exits = engine.wait_container(&name, None);
            drop(exits.next().await);
        })
        .await;
    }

    pub(super) async fn start_again(&self) {
        let container = self.container();
        on_node_runtime(async move { container.start().await }).await.expect("docker start");
    }

    pub(super) async fn pause(&self) {
        let container = self.container();
        let paused = on_node_runtime(async move {
            let until = Instant::now() + PAUSED_WITHIN;
            loop {
                match container.pause().await {
                    // On a busy machine the kernel does not stop all processes in the time that the engine gives it.
                    Err(error)
                        if Instant::now() < until && error.to_string().contains("unable to freeze") =>
                    {
                        sleep(Duration::from_millis(200)).await;
                    }
                    paused => return paused,
                }
            }
        });
        paused.await.expect("docker pause");
    }

    pub(super) async fn unpause(&self) {
        let container = self.container();
        on_node_runtime(async move { container.unpause().await }).await.expect("docker unpause");
    }

    pub(super) async fn rabbitmqctl(&self, args: &[&str]) -> Result<String, String> {
        let name = self.name.clone();
        let command: Vec<String> = ["rabbitmqctl"].iter().chain(args).map(ToString::to_string).collect();
        on_node_runtime(async move {
            let shown = command.join(" ");
            match timeout(Duration::from_secs(60), exec(&name, command)).await {
                Ok(Ok((Some(0), stdout, _))) => Ok(stdout),
                Ok(Ok((code, stdout, stderr))) => {
                    Err(format!("{shown}: exit code {code:?}: {stdout}{stderr}"))
                }
                Ok(Err(error)) => Err(format!("{shown}: {error}")),
                Err(_) => Err(format!("{shown}: no end within 60 s")),
            }
        })
        .await
    }

    /// CPU time of all processes in the container; `None` where the engine does not run on this machine, or hides them.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        let name = self.name.clone();
        let inspected = block_on_node_runtime(ENGINE_ANSWERS_WITHIN, async move {
            docker_client_instance().await.ok()?.inspect_container(&name, None).await.ok()?.state?.pid
        });
        let namespace = |process: &Path| fs::read_link(process.join("ns/pid")).ok();
        let container = namespace(&Path::new("/proc").join(inspected??.to_string()))?;
        let is_own = namespace(Path::new("/proc/self")).as_ref() == Some(&container);
        (!is_own).then(|| cpu_time_where(|process, _| namespace(process).as_ref() == Some(&container)))
    }

    fn container(&self) -> Arc<ContainerAsync<GenericImage>> {
        Arc::clone(self.container.as_ref().expect("there until dropped"))
    }
}

impl Drop for DockerNode {
    fn drop(&mut self) {
        let Some(container) = self.container.take().and_then(Arc::into_inner) else {
            return;
        };
        let removed = block_on_node_runtime(Duration::from_secs(20), container.rm());
        if matches!(removed, Some(Ok(()))) {
            self.watchdog.forget_container(&self.name);
        }
    }
}

/// Exit code, standard output and standard error of a command in a container.
async fn exec(container: &str, command: Vec<String>) -> Result<(Option<i64>, String, String), String> {
    let engine = docker_client_instance().await.map_err(|error| error.to_string())?;
    let config = ExecConfig {
        cmd: Some(command),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let exec = engine.create_exec(container, config).await.map_err(|error| error.to_string())?;
    let started = engine.start_exec(&exec.id, None).await.map_err(|error| error.to_string())?;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    if let StartExecResults::Attached { mut output, .. } = started {
        while let Some(chunk) = output.next().await {
            match chunk.map_err(|error| error.to_string())? {
                LogOutput::StdErr { message } => stderr.push_str(&String::from_utf8_lossy(&message)),
                other => stdout.push_str(&other.to_string()),
            }
        }
    }
    let ended = engine.inspect_exec(&exec.id).await.map_err(|error| error.to_string())?;
    Ok((ended.exit_code, stdout, stderr))
}

fn split(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, "latest"),
    }
}
