//! Desired replicas from metrics: proportional control with behaviour policies.
