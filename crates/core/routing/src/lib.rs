//! Services and endpoints to an nftables ruleset and DNS records.
