//! Config to build to spawn, per role; PKI and life cycle.
