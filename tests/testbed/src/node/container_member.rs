//! A container's place in a cluster.

#[cfg_attr(not(feature = "docker"), expect(dead_code, reason = "without containers nobody reads it"))]
pub(super) struct Member {
    /// Of the container and the host: the others find it by this name.
    pub(super) name: String,
    pub(super) network: String,
    /// The same in all nodes of a cluster.
    pub(super) cookie: String,
}

impl Member {
    /// Erlang's name of its node.
    pub(super) fn node(&self) -> String {
        format!("rabbit@{}", self.name)
    }
}
