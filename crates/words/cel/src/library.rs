//! The functions that every expression has, in the order in which Kubernetes 1.36 declares them.

mod extension;
pub(crate) mod kubernetes;
mod standard;

use std::sync::LazyLock;

use crate::declare::{Functions, functions};

/// All of them.
pub(crate) static BASE: LazyLock<Functions> = LazyLock::new(|| {
    functions(&[
        standard::FUNCTIONS,
        kubernetes::URLS,
        kubernetes::REGEX,
        kubernetes::LISTS,
        kubernetes::AUTHORIZER,
        extension::OPTIONAL,
        kubernetes::QUANTITY,
        extension::STRINGS,
        extension::SETS,
        kubernetes::ADDRESSES,
        kubernetes::FORMATS,
        extension::COMPREHENSIONS,
        kubernetes::SEMVER,
        extension::LISTS,
    ])
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overloads_are_read_in_their_order() {
        let ids = |name: &str| BASE[name].iter().map(|overload| overload.id).collect::<Vec<_>>();
        assert_eq!(
            ids("_[_]"),
            [
                "index_list",
                "index_map",
                "optional_list_index_int",
                "optional_map_index_value"
            ]
        );
        assert_eq!(
            ids("ip"),
            ["string_to_ip", "cidr_ip"],
            "a function and a method may share a name"
        );
        assert_eq!(ids("string").len(), 10);
        let value = &BASE["orValue"][0];
        assert!(value.member);
        assert_eq!(value.arguments[0].to_string(), "optional_type(V)");
        assert_eq!(value.parameters.len(), 1);
    }
}
