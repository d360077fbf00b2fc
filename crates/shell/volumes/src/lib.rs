//! Volumes of a pod: emptyDir to projected, updated atomically.
