//! What the switch loses. Pure: a list of faults in, nftables text out.
//!
//! Invariant: at most one fault per ordered pair of ends; the last one said counts.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// The switch's port towards the machine.
pub(crate) const MACHINE_PORT: &str = "machine";
/// The name that stands for the machine where a host is asked for.
pub const MACHINE: &str = "machine";

/// An end of a fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// A host, by its number.
    Host(u8),
    /// The machine that the lab is on.
    Machine,
    /// All others, whoever they are.
    Anyone,
}

/// Frames in one direction of which a share is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Who sends.
    pub from: End,
    /// Who does not hear.
    pub to: End,
    /// How many of a hundred frames are lost, by chance; 100 is a cut.
    pub percent: u8,
}

/// Name of a host's port at the switch.
pub(crate) fn port(number: u8) -> String {
    format!("host-{number}")
}

/// Loses a share of what `from` sends to `to`; none with 0.
///
/// # Errors
/// When it is no percentage.
pub(crate) fn lose(faults: &mut Vec<Fault>, from: &End, to: &End, percent: u8) -> Result<(), LabError> {
    if percent > 100 {
        return Err(LabError::Percent(percent));
    }
    faults.retain(|fault| (&fault.from, &fault.to) != (from, to));
    if percent > 0 {
        faults.push(Fault {
            from: from.clone(),
            to: to.clone(),
            percent,
        });
    }
    Ok(())
}

/// Heals everything, everything at one end, or what is between two. `all` are the ends there are: a fault towards
/// anyone becomes one towards each of the others, if only one of them is healed.
pub(crate) fn heal(faults: &mut Vec<Fault>, one: Option<&End>, other: Option<&End>, all: &[End]) {
    match (one, other) {
        (None, _) => faults.clear(),
        (Some(one), None) => faults.retain(|fault| &fault.from != one && &fault.to != one),
        (Some(one), Some(other)) => {
            let between =
                |fault: &Fault| (&fault.from == one && &fault.to == other) || (&fault.from == other && &fault.to == one);
            *faults = faults
                .drain(..)
                .flat_map(|fault| {
                    if covers(&fault, one, other) {
                        spread(&fault, all)
                    } else {
                        vec![fault]
                    }
                })
                .filter(|fault| !between(fault))
                .collect();
        }
    }
}

/// Whether a fault towards or from anyone is one between these two, too.
fn covers(fault: &Fault, one: &End, other: &End) -> bool {
    match (&fault.from, &fault.to) {
        (end, End::Anyone) | (End::Anyone, end) => end == one || end == other,
        _ => false,
    }
}

fn spread(fault: &Fault, all: &[End]) -> Vec<Fault> {
    let with = |from: &End, to: &End| Fault {
        from: from.clone(),
        to: to.clone(),
        percent: fault.percent,
    };
    match (&fault.from, &fault.to) {
        (from, End::Anyone) => all.iter().filter(|end| *end != from).map(|end| with(from, end)).collect(),
        (End::Anyone, to) => all.iter().filter(|end| *end != to).map(|end| with(end, to)).collect(),
        _ => vec![fault.clone()],
    }
}

/// Forgets a host.
pub(crate) fn forget(faults: &mut Vec<Fault>, host: u8) {
    let end = End::Host(host);
    faults.retain(|fault| fault.from != end && fault.to != end);
}

/// The switch's whole table, replaced in one transaction.
pub(crate) fn ruleset(faults: &[Fault]) -> String {
    let mut text = String::from("table bridge lab {}\ndelete table bridge lab\n");
    if faults.is_empty() {
        return text;
    }
    text.push_str("table bridge lab {\n  chain forward {\n    type filter hook forward priority 0; policy accept;\n");
    for fault in faults {
        text.push_str("   ");
        for (side, end) in [("iifname", &fault.from), ("oifname", &fault.to)] {
            match end {
                End::Host(number) => write!(text, " {side} \"{}\"", port(*number)),
                End::Machine => write!(text, " {side} \"{MACHINE_PORT}\""),
                End::Anyone => Ok(()),
            }
            .expect("a String grows");
        }
        if fault.percent < 100 {
            write!(text, " numgen random mod 100 < {}", fault.percent).expect("a String grows");
        }
        text.push_str(" drop\n");
    }
    text.push_str("  }\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: End = End::Host(1);
    const B: End = End::Host(2);

    fn rules(faults: &[Fault]) -> Vec<String> {
        let text = ruleset(faults);
        let drops = text.lines().filter(|line| line.ends_with("drop"));
        drops.map(|line| line.trim().to_owned()).collect()
    }

    fn faults(list: &[(End, End, u8)]) -> Vec<Fault> {
        let mut faults = vec![];
        for (from, to, percent) in list {
            lose(&mut faults, from, to, *percent).unwrap();
        }
        faults
    }

    #[test]
    fn a_fault_is_one_rule() {
        for (from, to, percent, wanted) in [
            (A, B, 100, r#"iifname "host-1" oifname "host-2" drop"#),
            (A, End::Anyone, 100, r#"iifname "host-1" drop"#),
            (End::Anyone, A, 100, r#"oifname "host-1" drop"#),
            (
                End::Machine,
                B,
                30,
                r#"iifname "machine" oifname "host-2" numgen random mod 100 < 30 drop"#,
            ),
        ] {
            assert_eq!(rules(&faults(&[(from, to, percent)])), [wanted]);
        }
    }

    #[test]
    fn the_last_word_counts() {
        let list = faults(&[(A, B, 100), (B, A, 100), (A, B, 30), (B, A, 0)]);
        assert_eq!(
            rules(&list),
            [r#"iifname "host-1" oifname "host-2" numgen random mod 100 < 30 drop"#]
        );
        assert!(lose(&mut vec![], &A, &B, 101).is_err());
    }

    #[test]
    fn healing_takes_what_was_asked_for() {
        let all = [A, B, End::Host(3), End::Machine];
        let cut_off = [(A, End::Anyone, 100), (End::Anyone, A, 100), (B, End::Host(3), 50)];
        let healed = |one: Option<&End>, other: Option<&End>| {
            let mut list = faults(&cut_off);
            heal(&mut list, one, other, &all);
            rules(&list)
        };
        assert!(healed(None, None).is_empty());
        assert_eq!(
            healed(Some(&A), None),
            [r#"iifname "host-2" oifname "host-3" numgen random mod 100 < 50 drop"#]
        );
        // Between A and B only: A stays cut off from the others.
        assert_eq!(
            healed(Some(&B), Some(&A)),
            [
                r#"iifname "host-1" oifname "host-3" drop"#,
                r#"iifname "host-1" oifname "machine" drop"#,
                r#"iifname "host-3" oifname "host-1" drop"#,
                r#"iifname "machine" oifname "host-1" drop"#,
                r#"iifname "host-2" oifname "host-3" numgen random mod 100 < 50 drop"#,
            ]
        );
    }

    #[test]
    fn nothing_is_an_empty_table() {
        assert_eq!(ruleset(&[]), "table bridge lab {}\ndelete table bridge lab\n");
    }
}
