//! The generic Kubernetes API over resource rows.
