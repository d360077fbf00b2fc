//! Thresholds of what must stay free on a node: below one of them the node is under pressure and gets no new pods.
//!
//! The form, the signals and their defaults are upstream's (`--eviction-hard`; pkg/kubelet/eviction/helpers.go).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use trireme_api::quantity::{Format, Quantity};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

const SIGNALS: [(Signal, &str); 6] = [
    (Signal::MemoryAvailable, "memory.available"),
    (Signal::NodefsAvailable, "nodefs.available"),
    (Signal::NodefsInodesFree, "nodefs.inodesFree"),
    (Signal::ImagefsAvailable, "imagefs.available"),
    (Signal::ImagefsInodesFree, "imagefs.inodesFree"),
    (Signal::PidAvailable, "pid.available"),
];

/// Signals whose breach is pressure on the disk.
const DISK: [Signal; 4] = [
    Signal::NodefsAvailable,
    Signal::NodefsInodesFree,
    Signal::ImagefsAvailable,
    Signal::ImagefsInodesFree,
];

impl Signal {
    fn name(self) -> &'static str {
        let found = SIGNALS.iter().find(|(signal, _)| *signal == self);
        found.expect("every signal has a name").1
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Threshold {
    /// Bytes, inodes or processes.
    Amount(Quantity),
    /// Per cent of the whole.
    Percent(f64),
}

impl Threshold {
    fn of(&self, capacity: i64) -> i64 {
        match self {
            Self::Amount(amount) => amount.value(),
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as i64,
        }
    }
}

/// Hard eviction thresholds by signal; a signal without one is not watched.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionHard(BTreeMap<Signal, Threshold>);

impl Default for EvictionHard {
    /// Upstream's on Linux.
    fn default() -> Self {
        Self(BTreeMap::from([
            (
                Signal::MemoryAvailable,
                Threshold::Amount(Quantity::new(100 << 20, Format::BinarySi)),
            ),
            (Signal::NodefsAvailable, Threshold::Percent(10.0)),
            (Signal::NodefsInodesFree, Threshold::Percent(5.0)),
            (Signal::ImagefsAvailable, Threshold::Percent(15.0)),
            (Signal::ImagefsInodesFree, Threshold::Percent(5.0)),
        ]))
    }
}

impl fmt::Display for EvictionHard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (signal, threshold)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{}<", signal.name())?;
            match threshold {
                Threshold::Amount(amount) => write!(formatter, "{amount}")?,
                Threshold::Percent(percent) => write!(formatter, "{percent}%")?,
            }
        }
        Ok(())
    }
}

impl FromStr for EvictionHard {
    type Err = String;

    /// Reads `memory.available<100Mi,nodefs.available<10%`. As upstream has it, `0%` and `100%` switch a signal off, and
    /// signals that are not named are off too.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut thresholds = BTreeMap::new();
        for statement in text.split(',').map(str::trim).filter(|statement| !statement.is_empty()) {
            let (name, value) = statement
                .split_once('<')
                .ok_or_else(|| format!("\"{statement}\" is not of the form memory.available<100Mi"))?;
            let (signal, _) = SIGNALS.iter().find(|(_, known)| *known == name.trim()).ok_or_else(|| {
                let known: Vec<&str> = SIGNALS.iter().map(|(_, known)| *known).collect();
                format!("unsupported eviction signal \"{name}\"; there are {}", known.join(", "))
            })?;
            if let Some(threshold) = threshold(name, value.trim())?
                && thresholds.insert(*signal, threshold).is_some()
            {
                return Err(format!("{name} stands there twice"));
            }
        }
        Ok(Self(thresholds))
    }
}

fn threshold(signal: &str, text: &str) -> Result<Option<Threshold>, String> {
    if text == "0%" || text == "100%" {
        return Ok(None);
    }
    if let Some(number) = text.strip_suffix('%') {
        let percent: f64 = number
            .parse()
            .map_err(|_| format!("{signal}: \"{text}\" is not a percentage"))?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!(
                "eviction percentage threshold {signal} must be between 0% and 100%: {text}"
            ));
        }
        return Ok(Some(Threshold::Percent(percent)));
    }
    let amount = Quantity::parse(text).map_err(|error| format!("{signal}: \"{text}\": {error}"))?;
    if amount.sign() <= 0 {
        return Err(format!("eviction threshold {signal} must be positive: {text}"));
    }
    Ok(Some(Threshold::Amount(amount)))
}

/// How much of something is left, and of how much: bytes, inodes or processes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stock {
    pub(crate) available: i64,
    pub(crate) capacity: i64,
}

/// What is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pid: bool,
}

impl EvictionHard {
    /// What is short, given what is left; a signal that could not be measured is none.
    pub(crate) fn pressure(&self, measured: impl Fn(Signal) -> Option<Stock>) -> Pressure {
        let short = |signal: &Signal| {
            let known = self.0.get(signal).zip(measured(*signal));
            known.is_some_and(|(threshold, stock)| stock.available < threshold.of(stock.capacity))
        };
        Pressure {
            memory: short(&Signal::MemoryAvailable),
            disk: DISK.iter().any(short),
            pid: short(&Signal::PidAvailable),
        }
    }

    /// What pods may not count on: the threshold of a signal.
    pub(crate) fn reserved(&self, signal: Signal, capacity: i64) -> i64 {
        self.0.get(&signal).map_or(0, |threshold| threshold.of(capacity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_and_shown() {
        let shown =
            "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";
        assert_eq!(EvictionHard::default().to_string(), shown);
        assert_eq!(shown.parse(), Ok(EvictionHard::default()));
        let off: EvictionHard = "nodefs.available<0%, imagefs.available<100%,pid.available<1k"
            .parse()
            .unwrap();
        assert_eq!(off.to_string(), "pid.available<1k");
        assert_eq!("".parse::<EvictionHard>().unwrap().to_string(), "");
        for wrong in [
            "memory.available",
            "memory.available>1Gi",
            "memory<1Gi",
            "memory.available<x",
            "memory.available<0",
            "memory.available<-1%",
            "memory.available<101%",
            "pid.available<1,pid.available<2",
        ] {
            assert!(wrong.parse::<EvictionHard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_node_is_under_pressure_below_a_threshold_only() {
        let left = |short: Signal, available: i64| {
            let all = Stock {
                available: 1000 << 20,
                capacity: 1000 << 20,
            };
            EvictionHard::default().pressure(move |signal| Some(if signal == short { Stock { available, ..all } } else { all }))
        };
        let none = Pressure::default();
        let (memory, disk) = (Pressure { memory: true, ..none }, Pressure { disk: true, ..none });
        for (signal, available, wanted) in [
            (Signal::MemoryAvailable, 100 << 20, none),
            (Signal::MemoryAvailable, (100 << 20) - 1, memory),
            (Signal::NodefsAvailable, 100 << 20, none),
            (Signal::NodefsAvailable, 99 << 20, disk),
            (Signal::ImagefsAvailable, 150 << 20, none),
            (Signal::ImagefsAvailable, 149 << 20, disk),
            (Signal::NodefsInodesFree, 49 << 20, disk),
            (Signal::PidAvailable, 0, none),
        ] {
            assert_eq!(left(signal, available), wanted, "{signal:?} {available}");
        }
        assert_eq!(EvictionHard::default().pressure(|_| None), none);
        assert_eq!(EvictionHard::default().reserved(Signal::NodefsAvailable, 1000), 100);
        assert_eq!(EvictionHard::default().reserved(Signal::PidAvailable, 1000), 0);
    }
}
