//! The permissions that each process needs in RabbitMQ, and a check that changes nothing.
//!
//! RabbitMQ checks the permission before the rest of a method. So each check sends a method with an
//! error in it, which has no effect: RabbitMQ refuses it either for the missing permission or for the
//! error (decision 91).

pub(super) mod scopes;

use std::{collections::BTreeMap, fmt};

use lapin::{
    BasicProperties, Channel, Connection, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueDeclareOptions,
    },
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable},
};

use super::{
    errors::soft_error,
    topology::{Entity, Kind, Topology},
};
use crate::policy::Tier;

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
        write!(f, "{permission} on {} {}, {}", self.kind, self.name, self.purpose)
    }
}

fn right(permission: Permission, kind: Kind, name: &str, purpose: &'static str) -> Right {
    Right { permission, kind, name: name.to_owned(), purpose }
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
            let key = (right.permission, right.kind, right.name.clone());
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
            let mut names = Vec::new();
            for right in rights.iter().filter(|right| right.permission == permission) {
                let name = self.pattern(role, &right.name);
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            match names.as_slice() {
                [] => "^$".to_owned(),
                [name] => format!("^{name}$"),
                names => format!("^({})$", names.join("|")),
            }
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
            right(Read, Queue, &replays, "to receive the outcomes of replays"),
            right(Write, Exchange, self.exchange(), "to replay"),
            right(Write, Exchange, &self.results(), "to discard"),
        ];
        rights.extend(Tier::ALL.map(|tier| right(Read, Queue, &self.retry_queue(tier), to_count)));
        rights
    }

    /// The permissions that the connection's user lacks.
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
            if !right.is_granted(&channel, self).await? {
                missing.push(right);
            }
            if let Err(error) = channel.close(200, "done".into()).await {
                tracing::debug!(%error, "channel was closed already");
            }
        }
        Ok(missing)
    }
}

/// A name as a regular expression. Of the characters that a prefix may have, only the dot is special.
fn escape(name: &str) -> String {
    name.replace('.', r"\.")
}

impl Right {
    async fn is_granted(&self, channel: &Channel, topology: &Topology) -> lapin::Result<bool> {
        let name = || self.name.as_str().into();
        let wrong = |argument: &str| {
            let value = AMQPValue::LongString("unlocker-check".into());
            FieldTable::from(BTreeMap::from([(argument.into(), value)]))
        };
        let answer = match (self.permission, self.kind) {
            (Permission::Configure, Kind::Exchange) => {
                let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
                let number = AMQPValue::LongInt(0);
                let arguments = FieldTable::from(BTreeMap::from([("alternate-exchange".into(), number)]));
                channel.exchange_declare(name(), ExchangeKind::Direct, options, arguments).await
            }
            (Permission::Configure, _) => {
                let options = QueueDeclareOptions { durable: true, ..Default::default() };
                channel.queue_declare(name(), options, wrong("x-expires")).await.map(|_queue| ())
            }
            (Permission::Read, Kind::Queue) => {
                let options = BasicConsumeOptions::default();
                let consumer = channel.basic_consume(name(), "".into(), options, wrong("x-priority")).await;
                consumer.map(|_consumer| ())
            }
            (Permission::Write, Kind::Exchange) => {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                let exchange = if self.name == DEFAULT_EXCHANGE { "".into() } else { name() };
                let properties = BasicProperties::default().with_expiration(NO_KEY.into());
                let options = BasicPublishOptions::default();
                match channel.basic_publish(exchange, NO_KEY.into(), options, b"", properties).await {
                    Ok(confirmation) => confirmation.await.map(|_confirmation| ()),
                    Err(error) => Err(error),
                }
            }
            (Permission::Write, _) => {
                // Unbinding needs write on the queue and read on the exchange. RabbitMQ names which one
                // is missing.
                channel
                    .queue_unbind(name(), topology.exchange().into(), NO_KEY.into(), FieldTable::default())
                    .await
            }
            (Permission::Read, _) => {
                // A queue on which those who need this right may write: a worker, or an operator.
                let queue = match self.name == topology.results() {
                    true => format!("{}.replays.{NO_KEY}", topology.dead()),
                    false => topology.dead(),
                };
                channel
                    .queue_unbind(queue.as_str().into(), name(), NO_KEY.into(), FieldTable::default())
                    .await
            }
        };
        match answer {
            Ok(()) => Ok(true),
            Err(error) => match soft_error(&error) {
                Some((AMQPSoftError::ACCESSREFUSED, text)) => {
                    let missing = match self.kind {
                        Kind::Exchange => format!("exchange '{}'", self.name),
                        _ => format!("queue '{}'", self.name),
                    };
                    Ok(!text.contains(&missing))
                }
                Some(_) => Ok(true),
                None => Err(error),
            },
        }
    }
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
