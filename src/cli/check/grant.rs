//! How to grant a role what it may do in RabbitMQ: by a command, or by scopes in the token.

use lapin::uri::AMQPUri;

use crate::broker::{
    Connector, Login, Topology,
    rights::{Right, Role},
};

/// Whom to grant what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant<'a> {
    pub(super) topology: &'a Topology,
    pub(super) role: Role,
    pub(super) connector: &'a Connector,
    pub(super) url: &'a AMQPUri,
}

impl Grant<'_> {
    /// All that the role needs. `user`: the name that RabbitMQ says.
    pub(super) fn all(&self, user: Option<&str>) -> String {
        match self.user(user) {
            Some(user) => set_permissions(&self.url.vhost, user, &self.topology.permissions(self.role)),
            None => {
                let scopes = self.topology.scopes(self.role, &self.url.vhost).join("\n");
                format!(
                    "give the token these scopes, where RESOURCE is RabbitMQ's auth_oauth2.resource_server_id:\n{scopes}"
                )
            }
        }
    }

    /// What mends that these are missing.
    pub(super) fn these(&self, missing: &[Right]) -> String {
        let Some(user) = self.user(None) else { return self.all(None) };
        let mut remedies = Vec::new();
        if missing.iter().any(|right| right.routing_key.is_none()) {
            remedies.push(format!(
                "{}\n(it replaces the user's present rights in this virtual host)",
                self.all(None)
            ));
        }
        if missing.iter().any(|right| right.routing_key.is_some()) {
            let expressions = self.topology.topic_permissions(self.role);
            let command =
                set_topic_permissions(&self.url.vhost, user, &self.topology.results(), &expressions);
            remedies.push(format!(
                "{command}\n(it replaces the user's present topic permissions on this exchange)"
            ));
        }
        remedies.join("\n")
    }

    /// The user's name; `None` where the scopes of a token say what it may do.
    fn user<'b>(&'b self, said: Option<&'b str>) -> Option<&'b str> {
        match self.connector.login(self.url) {
            Login::Token(_) => None,
            // The certificate names the user.
            Login::Certificate(_) => Some(said.unwrap_or("USER")),
            Login::Password(_) => Some(&self.url.authority.userinfo.username),
        }
    }
}

/// The command that grants the permissions, to paste into a shell.
fn set_permissions(vhost: &str, user: &str, expressions: &[String; 3]) -> String {
    let expressions = expressions.each_ref().map(|expression| quoted(expression)).join(" ");
    format!("rabbitmqctl set_permissions -p {} {} {expressions}", word(vhost), word(user))
}

/// The command that grants the routing keys on an exchange.
fn set_topic_permissions(vhost: &str, user: &str, exchange: &str, expressions: &[String; 2]) -> String {
    let expressions = expressions.each_ref().map(|expression| quoted(expression)).join(" ");
    let (vhost, user, exchange) = (word(vhost), word(user), word(exchange));
    format!("rabbitmqctl set_topic_permissions -p {vhost} {user} {exchange} {expressions}")
}

/// A word for a shell, in quotes if it needs them.
pub(super) fn word(text: &str) -> String {
    match text.chars().all(is_plain) && !text.is_empty() {
        true => text.to_owned(),
        false => quoted(text),
    }
}

fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "/._-:@".contains(character)
}

/// In single quotes for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_quoted_for_a_shell() {
        let permissions = ["^$", r"^a\.b$", "^(a|b)$"].map(str::to_owned);
        let command = set_permissions("a b", "o'neil", &permissions);
        assert_eq!(command, r"rabbitmqctl set_permissions -p 'a b' 'o'\''neil' '^$' '^a\.b$' '^(a|b)$'");
        let command = set_permissions("/", "unlocker", &Default::default());
        assert_eq!(command, "rabbitmqctl set_permissions -p / unlocker '' '' ''");
        let expressions = [r"^unlock\.unlocked$", "^$"].map(str::to_owned);
        let command = set_topic_permissions("/", "unlocker", "a.results", &expressions);
        assert_eq!(
            command,
            r"rabbitmqctl set_topic_permissions -p / unlocker a.results '^unlock\.unlocked$' '^$'"
        );
    }
}
