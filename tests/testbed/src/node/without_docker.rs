//! In place of a RabbitMQ container, for programs that are built without the feature `docker`: the demo, which should be
//! built quickly.

use std::convert::Infallible;
use std::time::Duration;

use super::NodeOptions;
use super::container_member::Member;

pub(super) struct DockerNode {
    pub(super) image: String,
    pub(super) amqp_port: u16,
    pub(super) management_port: u16,
    never: Infallible,
}

impl DockerNode {
    #[allow(clippy::unused_async)]
    pub(super) async fn start_as(_member: Option<&Member>, _options: &NodeOptions) -> Result<Self, String> {
        Err("this program is built without Docker".into())
    }

    pub(super) fn name(&self) -> String {
        match self.never {}
    }

    pub(super) async fn kill(&self) {
        match self.never {}
    }

    pub(super) async fn start_again(&self) {
        match self.never {}
    }

    pub(super) async fn pause(&self) {
        match self.never {}
    }

    pub(super) async fn unpause(&self) {
        match self.never {}
    }

    pub(super) fn cpu_time(&self) -> Option<Duration> {
        match self.never {}
    }

    pub(super) async fn rabbitmqctl(&self, _args: &[&str]) -> Result<String, String> {
        match self.never {}
    }
}
