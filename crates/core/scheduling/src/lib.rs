//! Placement of a pod on a node as a pure function.
