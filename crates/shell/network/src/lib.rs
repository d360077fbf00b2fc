//! Links, addresses, routes and nftables of a node.
