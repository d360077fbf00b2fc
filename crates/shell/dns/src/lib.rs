//! Answers cluster DNS on a node from routing records.
