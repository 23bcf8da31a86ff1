//! The permissions of a role as the scopes of an OAuth 2 token (RabbitMQ docs, "OAuth 2.0", "Scope-to-permission
//! translation").

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use super::{NO_KEY, Permission, Role};
use crate::broker::topology::Topology;

/// What is written as it is in a scope. A star means any characters.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-').remove(b':');

/// A name as it is written in a scope.
pub(in crate::broker) fn encoded(name: &str) -> PercentEncode<'_> {
    utf8_percent_encode(name, PLAIN)
}

impl Topology {
    /// The scopes that grant a role its permissions in a virtual host. RESOURCE stands for RabbitMQ's
    /// `auth_oauth2.resource_server_id`. Each ends with a pattern for routing keys: without one, RabbitMQ refuses
    /// to publish to a topic exchange, and to bind to it.
    pub fn scopes(&self, role: Role, vhost: &str) -> Vec<String> {
        let vhost = encoded(vhost);
        let mut scopes = Vec::new();
        for right in self.rights(role) {
            let permission = match right.permission {
                Permission::Configure => "configure",
                Permission::Write => "write",
                Permission::Read => "read",
            };
            let names = self.wildcard(role, &right.name);
            let scope = format!("RESOURCE.{permission}:{vhost}/{names}/*");
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        scopes.sort();
        scopes
    }

    /// A pattern for a name, or for all names like it.
    fn wildcard(&self, role: Role, name: &str) -> String {
        let is_own =
            name.strip_prefix(self.exchange()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if matches!(role, Role::Worker { declare: true }) && is_own {
            return format!("{}*", encoded(self.exchange()));
        }
        let retry = self.retry();
        let parent = match name.strip_prefix(&retry) {
            Some(tier) if !tier.is_empty() => Some(retry.as_str()),
            _ => name.strip_suffix(NO_KEY).and_then(|parent| parent.strip_suffix('.')),
        };
        parent.map_or_else(|| encoded(name).to_string(), |parent| format!("{}.*", encoded(parent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TopologyPrefix;

    #[test]
    fn a_role_s_scopes_have_a_pattern_for_vhost_name_and_routing_key() {
        let topology = Topology::new(&TopologyPrefix::parse("a.b").expect("a prefix"));
        assert_eq!(topology.scopes(Role::Producer, "/"), ["RESOURCE.write:%2F/a.b/*"]);
        assert_eq!(
            topology.scopes(Role::Worker { declare: true }, "prod"),
            [
                "RESOURCE.configure:prod/a.b*/*",
                "RESOURCE.read:prod/a.b*/*",
                "RESOURCE.write:prod/a.b*/*",
                "RESOURCE.write:prod/amq.default/*",
            ]
        );
        let operator = topology.scopes(Role::Operator, "prod");
        assert!(
            operator.contains(&"RESOURCE.configure:prod/a.b.dead.replays.*/*".to_owned()),
            "{operator:?}"
        );
        assert!(!operator.iter().any(|scope| scope.contains("check")), "{operator:?}");
    }
}
