//! Which of the fields that make a pod harmless are kept by what runs pods.
//!
//! Invariant: a standard is relaxed for a field only where the field is enforced: who asks for a user namespace and does not
//! get one is root on the host.

/// What the kubelet and the runtime keep of what a pod asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// `hostUsers: false`: the pod has a user namespace, its root is nobody on the host, or it does not run.
    pub host_users: bool,
    /// `os.name`: a pod for another operating system than the node's does not run.
    pub os: bool,
}

/// What this build enforces. Whoever builds one of these sets it here, in the same commit.
pub const ENFORCED: Isolation = Isolation {
    host_users: true,
    os: true,
};
