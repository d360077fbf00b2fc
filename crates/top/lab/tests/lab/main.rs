//! Labs as they really are, with hosts that run parts of this program in place of servers: does a cut really cut, does a
//! full disk really refuse, does a power cut really lose what was not synced, and does nothing stay behind.
//!
//! Needs root. Every trial has a lab of its own and removes it.

mod disks;
mod inside;
mod life;
mod links;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};
use trireme_lab::{Lab, Up};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        [trireme_lab::INIT_ARGUMENT, spec] => return ExitCode::from(u8::try_from(trireme_lab::run_init(spec)).unwrap_or(1)),
        ["inside", words @ ..] => return inside::run(words),
        _ => {}
    }
    let trial =
        |name: &str, run: fn() -> Result<()>| Trial::test(name, move || run().map_err(|error| format!("{error:#}").into()));
    let trials = vec![
        trial("a_cut_cuts_both_ways_and_heals", links::cut),
        trial("a_one_way_cut_lets_the_other_way_through", links::one_way),
        trial("a_lossy_link_loses_its_share", links::lossy),
        trial("a_host_that_is_cut_off_is_alone", links::cut_off),
        trial("a_full_disk_refuses_and_a_freed_one_does_not", disks::full),
        trial("a_power_cut_loses_what_was_not_synced", disks::power),
        trial("a_disk_carries_overlays", disks::overlay),
        trial("a_directory_has_no_disk_faults", disks::directory),
        trial("removing_the_machines_directories_takes_nothing_from_hosts", disks::removed),
        trial("two_labs_at_once_leave_nothing", life::two),
        trial("an_interrupted_lab_goes_by_its_name", life::interrupted),
        trial("a_process_is_killed_paused_and_started_again", life::processes),
        trial("hosts_come_and_go", life::members),
        trial("a_host_gets_another_address", life::readdressed),
        trial("a_context_comes_and_goes_with_its_lab", life::contexts),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A lab that goes with its value.
struct Ground(Lab);

impl std::ops::Deref for Ground {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("removing lab {}: {error}", self.0.name());
        }
    }
}

/// A lab of hosts that run nothing yet.
fn ground(name: &str, hosts: u8, disk_bytes: Option<u64>) -> Result<Ground> {
    let lab = Ground(Lab::open(name)?);
    lab.down()?; // What a killed run left.
    let up = Up {
        servers: 0,
        bare: hosts,
        disk_bytes,
        ..Up::one(std::env::current_exe()?)
    };
    lab.up(&up, &|_| {})?;
    Ok(lab)
}

/// A command line that runs a part of this program in a host.
fn inside(words: &[&str]) -> Result<Vec<String>> {
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let words = words.iter().map(|word| (*word).to_owned());
    Ok([program, "inside".to_owned()].into_iter().chain(words).collect())
}

/// Runs a part of this program in a host to its end; its standard output.
fn call(lab: &Lab, host: &str, words: &[&str]) -> Result<String> {
    let command = inside(words)?;
    let output = lab
        .host(host)?
        .output(&command.iter().map(String::as_str).collect::<Vec<_>>())?;
    anyhow::ensure!(
        output.status.success(),
        "{words:?} in {host}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Asks again and again until it holds.
fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !holds()? {
        anyhow::ensure!(std::time::Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}
