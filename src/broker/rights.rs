//! The permissions that each process needs in RabbitMQ.

pub(super) mod scopes;
mod trial;

use std::fmt;

use lapin::{Connection, types::AMQPValue};

use super::topology::{EVERY_OUTCOME, Entity, Kind, Topology};
use crate::{message::Status, policy::Tier};

/// A routing key that no binding has.
const NO_KEY: &str = "unlocker-check";
/// RabbitMQ's name for the default exchange in permissions.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// RabbitMQ's permissions. Each is granted by a regular expression for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Configure,
    Write,
    Read,
}

/// A permission on a queue or an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    pub permission: Permission,
    pub kind: Kind,
    pub name: String,
    /// RabbitMQ can restrict the permissions on a topic exchange to some routing keys, and does so for
    /// each OAuth 2 scope: this key is needed, beside the permission on the exchange.
    pub routing_key: Option<&'static str>,
    /// Why it is needed.
    pub purpose: &'static str,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permission = match self.permission {
            Permission::Configure => "configure",
            Permission::Write => "write",
            Permission::Read => "read",
        };
        write!(f, "{permission} on {} {}", self.kind, self.name)?;
        if let Some(key) = self.routing_key {
            write!(f, " with the routing key {key} (a topic permission)")?;
        }
        write!(f, ", {}", self.purpose)
    }
}

fn right(permission: Permission, kind: Kind, name: &str, purpose: &'static str) -> Right {
    Right { permission, kind, name: name.to_owned(), routing_key: None, purpose }
}

/// A right that only some routing keys of a topic exchange may lack.
fn topic_right(permission: Permission, name: &str, key: &'static str, purpose: &'static str) -> Right {
    Right { routing_key: Some(key), ..right(permission, Kind::Exchange, name, purpose) }
}

/// Who needs permissions, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The worker. With `declare`, it also declares the topology.
    Worker { declare: bool },
    /// Publishes requests, and waits for outcomes by direct reply-to, which needs no permission. The
    /// gateway also reads the history, if it is on.
    Producer,
    /// Browses, replays and discards dead letters, counts what waits, and reads the history, if it is on:
    /// the console, and people with the command line.
    Operator,
}

impl Topology {
    /// The permissions that a role needs.
    pub fn rights(&self, role: Role) -> Vec<Right> {
        let mut rights = match role {
            Role::Worker { declare } => self.worker_rights(declare),
            Role::Producer => {
                let publish = "to publish requests";
                vec![right(Permission::Write, Kind::Exchange, self.exchange(), publish)]
            }
            Role::Operator => self.operator_rights(),
        };
        if self.keeps_history() && !matches!(role, Role::Worker { .. }) {
            rights.push(right(Permission::Read, Kind::Queue, &self.history(), "to find outcomes"));
        }
        let mut seen = Vec::new();
        rights.retain(|right| {
            let key = (right.permission, right.kind, right.name.clone(), right.routing_key);
            let new = !seen.contains(&key);
            seen.push(key);
            new
        });
        rights
    }

    /// The regular expressions that grant a role its permissions and no more: configure, write,
    /// read, as `rabbitmqctl set_permissions` takes them.
    pub fn permissions(&self, role: Role) -> [String; 3] {
        let rights = self.rights(role);
        [Permission::Configure, Permission::Write, Permission::Read].map(|permission| {
            let of_this = rights.iter().filter(|right| right.permission == permission);
            any_of(of_this.map(|right| self.pattern(role, &right.name)))
        })
    }

    /// The regular expressions for the routing keys that a role needs on the exchange of the outcomes:
    /// write, read, as `rabbitmqctl set_topic_permissions` takes them.
    pub fn topic_permissions(&self, role: Role) -> [String; 2] {
        let rights = self.rights(role);
        [Permission::Write, Permission::Read].map(|permission| {
            let of_this = rights.iter().filter(|right| right.permission == permission);
            any_of(of_this.filter_map(|right| right.routing_key).map(escape))
        })
    }

    /// A regular expression for a name, or for all names like it.
    fn pattern(&self, role: Role, name: &str) -> String {
        let is_own =
            name.strip_prefix(self.exchange()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if matches!(role, Role::Worker { declare: true }) && is_own {
            return format!(r"{}(\..+)?", escape(self.exchange()));
        }
        let retry = self.retry();
        let parent = match name.strip_prefix(&retry) {
            Some(tier) if !tier.is_empty() => Some(retry.as_str()),
            _ => name.strip_suffix(NO_KEY).and_then(|parent| parent.strip_suffix('.')),
        };
        match parent {
            Some(parent) => format!(r"{}\..+", escape(parent)),
            None => escape(name),
        }
    }

    fn worker_rights(&self, declare: bool) -> Vec<Right> {
        use Kind::{Exchange, Queue};
        use Permission::{Configure, Read, Write};
        let mut rights = vec![
            right(Read, Queue, &self.requests(), "to consume requests"),
            right(Read, Queue, &self.undeliverable(), "to end what RabbitMQ gave up"),
            right(Write, Exchange, &self.retry(), "to publish retries"),
            right(Write, Exchange, &self.results(), "to publish outcomes"),
            right(Write, Exchange, &self.dead(), "to publish dead letters"),
            right(Write, Exchange, DEFAULT_EXCHANGE, "to answer a reply_to"),
        ];
        // RabbitMQ 4.2.7 and 4.3.1 require a permission for a passive declare, older ones do not.
        rights.push(right(Read, Exchange, self.exchange(), "to see that it is there"));
        for tier in Tier::ALL {
            rights.push(right(Read, Queue, &self.retry_queue(tier), "to count what waits in it"));
        }
        for status in Status::ALL.into_iter().filter(|status| *status != Status::Discarded) {
            rights.push(topic_right(Write, &self.results(), status.routing_key(), "to publish outcomes"));
        }
        if self.keeps_history() {
            rights.push(right(Read, Queue, &self.history(), "to see that it is there"));
        }
        if !declare {
            return rights;
        }
        let to_declare = "to declare it";
        for entity in self.entities() {
            match entity {
                Entity::Exchange { name, .. } => rights.push(right(Configure, Exchange, &name, to_declare)),
                Entity::Queue { name, arguments } => {
                    rights.push(right(Configure, Queue, &name, to_declare));
                    if let Some(AMQPValue::LongString(exchange)) =
                        arguments.inner().get("x-dead-letter-exchange")
                    {
                        let exchange = exchange.to_string();
                        rights.push(right(Read, Queue, &name, "to let it dead-letter"));
                        rights.push(right(Write, Exchange, &exchange, "to let queues dead-letter to it"));
                    }
                }
                Entity::Stream { name, .. } => rights.push(right(Configure, Queue, &name, to_declare)),
                Entity::Binding { queue, exchange, .. } => {
                    rights.push(right(Write, Queue, &queue, "to bind it"));
                    rights.push(right(Read, Exchange, &exchange, "to bind queues to it"));
                    if exchange == self.results() {
                        rights.push(topic_right(Read, &exchange, EVERY_OUTCOME, "to bind queues to it"));
                    }
                }
            }
        }
        rights
    }

    /// The permissions to work on dead letters.
    fn operator_rights(&self) -> Vec<Right> {
        use Kind::{Exchange, Queue};
        use Permission::{Configure, Read, Write};
        let (lock, plans) = (self.dead_letter_lock(), self.dead_letter_plans());
        // Each question and each replay has a queue of its own. Any name with this beginning will do.
        let asking = format!("{lock}.{NO_KEY}");
        let replays = format!("{}.replays.{NO_KEY}", self.dead());
        let log = self.console_log();
        let to_count = "to count what waits in it";
        let mut rights = vec![
            right(Configure, Queue, &log, "to keep what the console has done"),
            right(Read, Queue, &log, "to see what all consoles have done"),
            right(Read, Queue, &self.requests(), to_count),
            right(Read, Queue, &self.undeliverable(), to_count),
            right(Configure, Queue, &lock, "to lock the dead letters"),
            right(Read, Queue, &lock, "to be asked who has the lock"),
            right(Configure, Queue, &asking, "to ask who has the lock"),
            right(Read, Queue, &asking, "to receive who has the lock"),
            right(Read, Queue, &self.dead(), "to browse dead letters"),
            right(Configure, Queue, &plans, "to store plans"),
            right(Write, Exchange, DEFAULT_EXCHANGE, "to store plans and to answer who has the lock"),
            right(Read, Queue, &plans, "to read plans"),
            right(Configure, Queue, &replays, "to wait for the outcomes of replays"),
            right(Write, Queue, &replays, "to bind it to the outcomes"),
            right(Read, Exchange, &self.results(), "to bind a queue to the outcomes"),
            topic_right(Read, &self.results(), EVERY_OUTCOME, "to bind a queue to the outcomes"),
            right(Read, Queue, &replays, "to receive the outcomes of replays"),
            right(Write, Exchange, self.exchange(), "to replay"),
            right(Write, Exchange, &self.results(), "to discard"),
            topic_right(Write, &self.results(), Status::Discarded.routing_key(), "to discard"),
        ];
        rights.extend(Tier::ALL.map(|tier| right(Read, Queue, &self.retry_queue(tier), to_count)));
        rights
    }

    /// The permissions that the connection's user lacks. Of an exchange that is forbidden altogether, no
    /// routing key is named.
    ///
    /// # Errors
    /// If RabbitMQ can't be asked.
    pub async fn missing_rights(
        &self,
        connection: &Connection,
        rights: Vec<Right>,
    ) -> lapin::Result<Vec<Right>> {
        let mut missing = Vec::new();
        for right in rights {
            // Each check closes its channel.
            let channel = connection.create_channel().await?;
            if !right.is_granted(connection, &channel, self).await? {
                missing.push(right);
            }
            if let Err(error) = channel.close(200, "done".into()).await {
                tracing::debug!(%error, "channel was closed already");
            }
        }
        Ok(missing)
    }
}

/// A regular expression for these and nothing else.
fn any_of(patterns: impl Iterator<Item = String>) -> String {
    let mut different = Vec::new();
    for pattern in patterns {
        if !different.contains(&pattern) {
            different.push(pattern);
        }
    }
    match different.as_slice() {
        [] => "^$".to_owned(),
        [only] => format!("^{only}$"),
        several => format!("^({})$", several.join("|")),
    }
}

/// A name as a regular expression. Of the characters that a prefix may have, only the dot is special.
fn escape(name: &str) -> String {
    name.replace('.', r"\.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{History, TopologyPrefix};

    fn permissions(role: Role) -> [String; 3] {
        Topology::new(&TopologyPrefix::parse("a.b").expect("a prefix")).permissions(role)
    }

    #[test]
    fn a_role_is_granted_what_it_needs_and_no_more() {
        assert_eq!(
            permissions(Role::Worker { declare: true }),
            [r"^a\.b(\..+)?$", r"^(a\.b(\..+)?|amq\.default)$", r"^a\.b(\..+)?$"].map(str::to_owned)
        );
        assert_eq!(
            permissions(Role::Worker { declare: false }),
            [
                "^$",
                r"^(a\.b\.retry|a\.b\.results|a\.b\.dead|amq\.default)$",
                r"^(a\.b\.requests|a\.b\.undeliverable|a\.b|a\.b\.retry\..+)$",
            ]
        );
        assert_eq!(permissions(Role::Producer), ["^$", r"^a\.b$", "^$"]);
        let [configure, write, read] = permissions(Role::Operator);
        assert!(!read.contains("history"), "{read}");
        assert_eq!(
            configure,
            r"^(a\.b\.console|a\.b\.dead\.lock|a\.b\.dead\.lock\..+|a\.b\.dead\.plans|a\.b\.dead\.replays\..+)$"
        );
        assert!(write.contains("amq") && !write.contains("check"), "{write}");
    }

    #[test]
    fn only_those_who_publish_outcomes_or_bind_to_them_need_routing_keys() {
        let topology = Topology::new(&TopologyPrefix::parse("a.b").expect("a prefix"));
        assert_eq!(
            topology.topic_permissions(Role::Worker { declare: true }),
            [r"^(unlock\.unlocked|unlock\.invalid|unlock\.refused|unlock\.abandoned)$", "^$"]
        );
        assert_eq!(topology.topic_permissions(Role::Operator), [r"^unlock\.discarded$", r"^unlock\.#$"]);
        assert_eq!(topology.topic_permissions(Role::Producer), ["^$", "^$"]);
    }

    #[test]
    fn the_history_needs_read_alone() {
        let day = std::time::Duration::from_secs(86_400);
        let history = History { enabled: true, max_age: day, max_bytes: 500_000_000 };
        let topology = Topology::new(&TopologyPrefix::parse("a.b").expect("a prefix"));
        let kept = topology.clone().with_history(&history);
        for role in [Role::Worker { declare: false }, Role::Producer, Role::Operator] {
            let more = kept.rights(role).into_iter().filter(|right| !topology.rights(role).contains(right));
            let more: Vec<_> = more.map(|right| (right.permission, right.name)).collect();
            assert_eq!(more, [(Permission::Read, "a.b.history".to_owned())], "{role:?}");
        }
        let declaring = Role::Worker { declare: true };
        assert_eq!(kept.permissions(declaring), topology.permissions(declaring), "the prefix covers it");
        assert_eq!(kept.permissions(Role::Producer), ["^$", r"^a\.b$", r"^a\.b\.history$"]);
    }
}
