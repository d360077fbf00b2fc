//! Servers without a node, as plain processes on the loopback: what they make of their data directories and addresses.
//! Needs neither root nor a lab.

mod addresses;
mod hollow;
mod keys;
mod process;
