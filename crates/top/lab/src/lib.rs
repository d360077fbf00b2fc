//! Hosts made of network namespaces, and faults upon them.
