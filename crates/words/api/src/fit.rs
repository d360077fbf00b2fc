//! Whether a node's name, labels and taints suit a pod: node selector terms and tolerations.
//!
//! Over plain strings, so that the scheduler and the controllers, which hold typed objects, ask the same question. It will
//! not look at room on the node.

/// One requirement of a node selector term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirement<'a> {
    /// A label's key, or the path of a field.
    pub key: &'a str,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt` or `Lt`; any other holds for nothing.
    pub operator: &'a str,
    /// What it compares with.
    pub values: &'a [String],
}

impl<'a> Requirement<'a> {
    /// A requirement as typed objects have it.
    #[must_use]
    pub fn of(key: &'a str, operator: &'a str, values: &'a Option<Vec<String>>) -> Self {
        Self {
            key,
            operator,
            values: values.as_deref().unwrap_or_default(),
        }
    }

    /// Whether it holds for the value of its key; `None` where there is no such label.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|wanted| wanted == value);
        let numbers = || {
            let value: i64 = value?.parse().ok()?;
            let bound: i64 = self.values.first()?.parse().ok()?;
            Some((value, bound))
        };
        match self.operator {
            "In" => value.is_some_and(among),
            "NotIn" => !value.is_some_and(among),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
            "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
            _ => false,
        }
    }
}

/// Whether a node of this name and with these labels satisfies a node selector term; an empty term is satisfied by none.
pub fn term_matches<'a, 'n>(
    labels: impl IntoIterator<Item = Requirement<'a>>,
    fields: impl IntoIterator<Item = Requirement<'a>>,
    name: &str,
    label: impl Fn(&str) -> Option<&'n str>,
) -> bool {
    let mut asked = false;
    let mut all = true;
    for requirement in labels {
        asked = true;
        all &= requirement.holds(label(requirement.key));
    }
    for requirement in fields {
        asked = true;
        all &= requirement.holds((requirement.key == "metadata.name").then_some(name));
    }
    asked && all
}

/// A port of the node's that a pod takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// `hostIP`; empty and `0.0.0.0`: all of the node's.
    pub address: &'a str,
    /// `TCP`, `UDP` or `SCTP`; empty: `TCP`.
    pub protocol: &'a str,
    /// Number.
    pub port: i32,
}

impl HostPort<'_> {
    /// Whether both cannot be had at once.
    #[must_use]
    pub fn conflicts(&self, other: &HostPort<'_>) -> bool {
        fn or<'t>(text: &'t str, default: &'t str) -> &'t str {
            if text.is_empty() { default } else { text }
        }
        let (mine, others) = (or(self.address, ALL_ADDRESSES), or(other.address, ALL_ADDRESSES));
        self.port == other.port
            && or(self.protocol, "TCP") == or(other.protocol, "TCP")
            && (mine == others || mine == ALL_ADDRESSES || others == ALL_ADDRESSES)
    }
}

/// What stands for all addresses of a node.
const ALL_ADDRESSES: &str = "0.0.0.0";

/// A taint of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taint<'a> {
    /// `key`.
    pub key: &'a str,
    /// `value`, empty where absent.
    pub value: &'a str,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: &'a str,
}

/// A toleration of a pod; absent fields are empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Toleration<'a> {
    /// `key`; empty: any.
    pub key: &'a str,
    /// `Equal`, which empty is too, or `Exists`; any other tolerates nothing.
    pub operator: &'a str,
    /// `value`.
    pub value: &'a str,
    /// `effect`; empty: any.
    pub effect: &'a str,
}

impl<'a> Toleration<'a> {
    /// A toleration by its key, operator, value and effect, as typed objects have them.
    #[must_use]
    pub fn of([key, operator, value, effect]: [&'a Option<String>; 4]) -> Self {
        let text = |part: &'a Option<String>| part.as_deref().unwrap_or_default();
        Self {
            key: text(key),
            operator: text(operator),
            value: text(value),
            effect: text(effect),
        }
    }

    /// Whether it tolerates a taint, for however long.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint<'_>) -> bool {
        let same = |wanted: &str, held: &str| wanted.is_empty() || wanted == held;
        let value = match self.operator {
            "" | "Equal" => self.value == taint.value,
            "Exists" => true,
            _ => false,
        };
        same(self.effect, taint.effect) && same(self.key, taint.key) && value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_hold_as_node_selectors_say() {
        for (operator, values, value, expected) in [
            ("In", &["a", "b"][..], Some("b"), true),
            ("In", &["a"], None, false),
            ("NotIn", &["a"], Some("b"), true),
            ("NotIn", &["a"], None, true),
            ("NotIn", &["a"], Some("a"), false),
            ("Exists", &[], Some(""), true),
            ("Exists", &[], None, false),
            ("DoesNotExist", &[], None, true),
            ("Gt", &["3"], Some("4"), true),
            ("Gt", &["3"], Some("3"), false),
            ("Lt", &["3"], Some("2"), true),
            ("Lt", &["3"], Some("x"), false),
            ("Gt", &["3"], None, false),
            ("Like", &["a"], Some("a"), false),
        ] {
            let values: Vec<String> = values.iter().map(|text| (*text).to_owned()).collect();
            let requirement = Requirement {
                key: "k",
                operator,
                values: &values,
            };
            assert_eq!(requirement.holds(value), expected, "{operator} {values:?} of {value:?}");
        }
    }

    #[test]
    fn a_term_asks_for_all_of_it_and_an_empty_one_matches_nothing() {
        let values = vec!["n1".to_owned()];
        let named = |key| Requirement {
            key,
            operator: "In",
            values: &values,
        };
        let labelled = |key: &str| (key == "zone").then_some("n1");
        assert!(!term_matches([], [], "n1", labelled));
        assert!(term_matches([], [named("metadata.name")], "n1", labelled));
        assert!(!term_matches([], [named("metadata.name")], "n2", labelled));
        assert!(!term_matches([], [named("metadata.uid")], "n1", labelled));
        assert!(term_matches([named("zone")], [named("metadata.name")], "n1", labelled));
        assert!(!term_matches([named("disk")], [named("metadata.name")], "n1", labelled));
    }

    #[test]
    fn a_port_is_taken_by_protocol_and_address() {
        let port = |address, protocol, port| HostPort { address, protocol, port };
        let mine = port("", "", 80);
        for (address, protocol, number, expected) in [
            ("", "TCP", 80, true),
            ("0.0.0.0", "TCP", 80, true),
            ("192.0.2.1", "TCP", 80, true),
            ("", "UDP", 80, false),
            ("", "TCP", 81, false),
        ] {
            let other = port(address, protocol, number);
            assert_eq!(mine.conflicts(&other), expected, "{other:?}");
            assert_eq!(other.conflicts(&mine), expected, "{other:?}");
        }
        assert!(!port("192.0.2.1", "", 80).conflicts(&port("192.0.2.2", "", 80)));
    }

    #[test]
    fn tolerations_match_key_value_and_effect() {
        let taint = Taint {
            key: "k",
            value: "v",
            effect: "NoSchedule",
        };
        for (key, operator, value, effect, expected) in [
            ("k", "", "v", "NoSchedule", true),
            ("k", "Equal", "v", "", true),
            ("k", "Equal", "w", "", false),
            ("k", "Exists", "", "NoSchedule", true),
            ("k", "Exists", "", "NoExecute", false),
            ("", "Exists", "", "", true),
            ("j", "Exists", "", "", false),
            ("k", "Gt", "v", "", false),
        ] {
            let toleration = Toleration {
                key,
                operator,
                value,
                effect,
            };
            assert_eq!(toleration.tolerates(&taint), expected, "{toleration:?}");
        }
    }
}
