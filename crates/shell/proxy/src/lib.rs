//! Applies the routing ruleset on a node.
