//! Who a request comes from.
//!
//! Invariant: a `UserInfo` is made by an authenticator or by impersonation only; nothing in it comes from a request's
//! body.

use std::collections::BTreeMap;

/// The authenticated identity of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name, for example `system:node:n1`.
    pub name: String,
    /// Stable id where the authenticator knows one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts, for example `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
    /// The leader's term for which a controller of this process acts: its writes are refused in any other term. Nobody
    /// from outside has one.
    pub fence: Option<u64>,
}

/// Group of every authenticated user.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of requests without credentials.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// User name of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of kubelets.
pub const NODES: &str = "system:nodes";
/// The user that the API server's own loops act as.
pub const APISERVER: &str = "system:apiserver";

impl UserInfo {
    /// A user with groups and nothing else.
    #[must_use]
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The identity of requests without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[UNAUTHENTICATED])
    }

    /// The API server itself.
    #[must_use]
    pub fn apiserver() -> Self {
        Self::new(APISERVER, &[MASTERS])
    }

    /// The same user, but only for one term of the leader.
    #[must_use]
    pub fn fenced(mut self, term: u64) -> Self {
        self.fence = Some(term);
        self
    }

    /// Whether the user is in a group.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Adds `system:authenticated` unless the user is anonymous.
    #[must_use]
    pub fn authenticated(mut self) -> Self {
        if self.name != ANONYMOUS && !self.in_group(AUTHENTICATED) && !self.in_group(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}
