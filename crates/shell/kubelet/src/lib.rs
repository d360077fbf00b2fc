//! Drives the pod core against the runtime, volumes and network.
