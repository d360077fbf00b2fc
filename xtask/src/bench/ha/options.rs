//! What `bench ha` measures, and how often.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::super::report::Output;

/// Options of `bench ha`.
#[derive(Args)]
pub(crate) struct Ha {
    /// The trireme binary; the release build without, which is made if it is not there
    #[arg(long)]
    pub(super) binary: Option<PathBuf>,
    /// What to measure; all without
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often each fault happens, instead of the counts below
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeat: Option<u64>,
    /// How often the leader is killed
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    leader_kills: u64,
    /// How often a follower is killed
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    follower_kills: u64,
    /// How often the leader is stopped cleanly
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    stops: u64,
    /// How often the controllers' leader is killed
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    handovers: u64,
    /// How often the holder of the virtual address is killed
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    vip_moves: u64,
    /// Creates per second of all paced clients together
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) rate: u32,
    /// Paced clients, a third of them at each server
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) clients: u32,
    /// Seconds of writing before and after each fault
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    window: u64,
    /// Seconds of each row of the creates, and of the writes before a join
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    duration: u64,
    /// Connections of the creates with many
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(super) connections: u64,
    /// Bytes of each ConfigMap of the creates as the server lists it
    #[arg(long, default_value_t = 1004, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) object_bytes: u64,
    /// Seconds of quiet before the servers are looked at
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=3600))]
    quiet: u64,
    /// How many seconds they are looked at
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle: u64,
    /// MiB of objects that a fourth server gets
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=8192))]
    pub(super) state_mb: u64,
    /// Size of each host's own disk, such as 8G; 0 lays data into a directory of the machine
    #[arg(long, default_value = "0")]
    pub(super) disk_size: String,
    /// Threads of the client
    #[arg(long, default_value_t = 1)]
    pub(in super::super) client_threads: usize,
    /// Measure with an unoptimised client, which saves building another
    #[arg(long)]
    pub(in super::super) debug_client: bool,
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub(in super::super) output: Output,
    /// Further arguments of every server, behind `--`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// One part of the measurement. The order is the one in which they run: what leaves nothing behind comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Part {
    /// Memory and CPU of servers that do nothing
    Idle,
    /// Creates per second, beside those of one server
    Create,
    /// The leader is killed under writes
    Leader,
    /// A follower is killed under writes
    Follower,
    /// The leader is stopped cleanly under writes
    Stop,
    /// Controllers go on after the leader's death
    Controllers,
    /// The virtual address moves after its holder's death
    Vip,
    /// A fourth server joins under writes
    Join,
}

impl Part {
    /// Its name.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Create => "create",
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Stop => "stop",
            Self::Controllers => "controllers",
            Self::Vip => "vip",
            Self::Join => "join",
        }
    }
}

impl Ha {
    /// What is measured, in order.
    pub(super) fn parts(&self) -> Vec<Part> {
        let mut parts = if self.only.is_empty() {
            Part::value_variants().to_vec()
        } else {
            self.only.clone()
        };
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// How often a part's fault happens.
    pub(super) fn rounds(&self, part: Part) -> u64 {
        let own = match part {
            Part::Leader => self.leader_kills,
            Part::Follower => self.follower_kills,
            Part::Stop => self.stops,
            Part::Controllers => self.handovers,
            Part::Vip => self.vip_moves,
            Part::Idle | Part::Create | Part::Join => return 1,
        };
        self.repeat.unwrap_or(own)
    }

    /// Time of writing before and after each fault.
    pub(super) fn window(&self) -> Duration {
        Duration::from_secs(self.window)
    }

    /// Time of each row of creates.
    pub(super) fn duration(&self) -> Duration {
        Duration::from_secs(self.duration)
    }

    /// Time of quiet, and time of looking behind it.
    pub(super) fn idle(&self) -> (Duration, Duration) {
        (Duration::from_secs(self.quiet), Duration::from_secs(self.idle))
    }

    /// The virtual address that the lab gives its servers, as an argument; `lab up` knows the subnet.
    pub(super) fn server_arguments(&self) -> Vec<String> {
        let vip = ["--vip".to_owned(), format!("{{subnet}}.{}", super::vip::LAST_OCTET)];
        vip.into_iter().chain(self.arguments.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        ha: Ha,
    }

    fn parse(arguments: &[&str]) -> Ha {
        Command::parse_from([&["bench"], arguments].concat()).ha
    }

    #[test]
    fn parts_run_in_their_order() {
        assert_eq!(parse(&[]).parts(), Part::value_variants());
        assert_eq!(parse(&["--only", "vip,leader,vip"]).parts(), [Part::Leader, Part::Vip]);
        for part in Part::value_variants() {
            let name = part.to_possible_value().expect("no part is hidden");
            assert_eq!(name.get_name(), part.key());
        }
    }

    #[test]
    fn counts() {
        let (usual, few) = (parse(&[]), parse(&["--repeat", "2"]));
        assert_eq!((usual.rounds(Part::Leader), usual.rounds(Part::Vip)), (50, 10));
        assert_eq!((few.rounds(Part::Leader), few.rounds(Part::Idle)), (2, 1));
    }
}
