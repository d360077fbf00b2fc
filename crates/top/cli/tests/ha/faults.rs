//! The faults, one trial each. What a fault touches may fail; the others go on, and at the end nothing is lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::ground::{Ground, PATIENCE, Report, eventually};
use crate::order;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("namespaces_are_everywhere_at_once", order::namespaces),
    ("leader_killed", leader_killed),
    ("follower_killed", follower_killed),
    ("leader_stopped_cleanly", leader_stopped_cleanly),
    ("leader_paused_ten_seconds", |ground| {
        leader_paused(ground, Duration::from_secs(10))
    }),
    ("leader_paused_a_minute", |ground| {
        leader_paused(ground, Duration::from_secs(60))
    }),
    ("leader_cut_off", |ground| leader_cut(ground, &[])),
    ("leader_cut_off_one_way", |ground| leader_cut(ground, &["--one-way"])),
    ("thirty_percent_loss", thirty_percent_loss),
    ("full_disk_of_the_leader", full_disk),
    ("power_cut_of_the_leader", power_cut),
    ("two_faults_at_once", two_faults),
    ("quorum_lost_and_back", quorum_lost),
    ("rolling_restart", rolling_restart),
    ("member_replaced", member_replaced),
];

/// The application may be silent for this long while a node does not answer: visitors go on to another address, and
/// their connections to pods behind a cut link have to time out first.
const APPLICATION_GAP_MAX: Duration = Duration::from_secs(10);

fn all(ground: &Ground) -> Vec<usize> {
    (0..ground.hosts().len()).collect()
}

fn others(ground: &Ground, one: usize) -> Vec<usize> {
    all(ground).into_iter().filter(|host| *host != one).collect()
}

fn answered(report: &Report) -> Result<()> {
    ensure!(report.visits.answered > 0, "nobody reached the application");
    ensure!(
        report.visits.longest_gap < APPLICATION_GAP_MAX,
        "the application was silent for {} ms",
        report.visits.longest_gap.as_millis()
    );
    Ok(())
}

fn name(ground: &Ground, host: usize) -> String {
    ground.host(host).name
}

fn leader_killed(ground: &mut Ground) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let report = ground.trial(&[leader], |trial| {
        ground.lab(&["kill", &name(ground, leader)])?;
        trial.progress(60)?;
        ensure!(ground.leader(&others(ground, leader))? != leader, "another one leads");
        ground.lab(&["restart", &name(ground, leader)]).map(drop)
    })?;
    ensure!(report.visits.given_up.is_empty(), "visitors noticed: {:?}", report.visits);
    answered(&report)
}

fn follower_killed(ground: &mut Ground) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let follower = others(ground, leader)[0];
    let report = ground.trial(&[follower], |trial| {
        ground.lab(&["kill", &name(ground, follower)])?;
        trial.progress(60)?;
        ensure!(ground.leader(&[leader])? == leader, "the same one leads");
        ground.lab(&["restart", &name(ground, follower)]).map(drop)
    })?;
    ensure!(report.visits.given_up.is_empty(), "visitors noticed: {:?}", report.visits);
    answered(&report)
}

fn leader_stopped_cleanly(ground: &mut Ground) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let report = ground.trial(&[leader], |trial| {
        ground.lab(&["restart", &name(ground, leader)])?;
        trial.progress(60)
    })?;
    ensure!(report.visits.given_up.is_empty(), "visitors noticed: {:?}", report.visits);
    answered(&report)
}

fn leader_paused(ground: &mut Ground, pause: Duration) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let report = ground.trial(&[leader], |trial| {
        ground.lab(&["stop", &name(ground, leader)])?;
        let paused = std::time::Instant::now();
        trial.progress(60)?;
        // The pause itself is the fault: it has to last.
        std::thread::sleep(pause.saturating_sub(paused.elapsed()));
        ground.lab(&["cont", &name(ground, leader)]).map(drop)
    })?;
    ensure!(report.visits.given_up.is_empty(), "visitors noticed: {:?}", report.visits);
    answered(&report)
}

fn leader_cut(ground: &mut Ground, how: &[&str]) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let report = ground.trial(&[leader], |trial| {
        for other in others(ground, leader) {
            ground.lab(&[&["cut", &name(ground, leader), &name(ground, other)], how].concat())?;
        }
        trial.progress(60)?;
        ground.lab(&["heal"]).map(drop)
    })?;
    answered(&report)
}

fn thirty_percent_loss(ground: &mut Ground) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let report = ground.trial(&[], |trial| {
        for other in others(ground, leader) {
            ground.lab(&["lossy", &name(ground, leader), &name(ground, other), "--percent", "30"])?;
        }
        trial.progress(60)?;
        ground.lab(&["heal"]).map(drop)
    })?;
    answered(&report)
}

fn full_disk(ground: &mut Ground) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let report = ground.trial(&[leader], |trial| {
        ground.lab(&["fill-disk", &name(ground, leader)])?;
        trial.progress(60)?;
        ground.lab(&["fill-disk", &name(ground, leader), "--free"]).map(drop)
    })?;
    answered(&report)
}

fn power_cut(ground: &mut Ground) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let report = ground.trial(&[leader], |trial| {
        ground.lab(&["power-cut", &name(ground, leader)])?;
        trial.progress(60)
    })?;
    answered(&report)
}

/// A follower is killed while the others lose packets between them.
fn two_faults(ground: &mut Ground) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let [killed, other] = others(ground, leader)[..] else {
        anyhow::bail!("three servers")
    };
    let report = ground.trial(&[killed], |trial| {
        ground.lab(&["lossy", &name(ground, leader), &name(ground, other), "--percent", "20"])?;
        ground.lab(&["kill", &name(ground, killed)])?;
        trial.progress(60)?;
        ground.lab(&["heal"])?;
        ground.lab(&["restart", &name(ground, killed)]).map(drop)
    })?;
    answered(&report)
}

fn quorum_lost(ground: &mut Ground) -> Result<()> {
    let leader = ground.leader(&all(ground))?;
    let killed = others(ground, leader);
    let report = ground.trial(&all(ground), |trial| {
        for host in &killed {
            ground.lab(&["kill", &name(ground, *host)])?;
        }
        eventually("a server that says it is not ready", PATIENCE, || {
            Ok(ground.kubectl(leader, &["get", "--raw", "/readyz"]).is_err())
        })?;
        ensure!(
            trial.stands_still(Duration::from_secs(2)),
            "a write was acknowledged without a majority"
        );
        let refused = ground.kubectl(leader, &["create", "namespace", "without-majority"]);
        let said = format!("{:#}", refused.err().context("a write without a majority succeeded")?);
        ensure!(
            said.contains("no leader") || said.contains("ServiceUnavailable"),
            "what is said: {said}"
        );
        let stale = ground.kubectl(leader, &["get", "--raw", "/api/v1/namespaces?resourceVersion=0"])?;
        ensure!(stale.contains("kube-system"), "reads of what is there go on");
        for host in &killed {
            ground.lab(&["restart", &name(ground, *host)])?;
        }
        trial.progress(60)
    })?;
    ensure!(report.visits.given_up.is_empty(), "visitors noticed: {:?}", report.visits);
    answered(&report)
}

fn rolling_restart(ground: &mut Ground) -> Result<()> {
    let report = ground.trial(&[], |trial| {
        for host in all(ground) {
            ground.lab(&["restart", &name(ground, host)])?;
            eventually("the server is ready again", PATIENCE, || {
                Ok(ground.kubectl(host, &["get", "--raw", "/readyz"])? == "ok")
            })?;
            trial.progress(30)?;
        }
        Ok(())
    })?;
    ensure!(report.visits.given_up.is_empty(), "visitors noticed: {:?}", report.visits);
    answered(&report)
}

/// The last host is lost for good; another one takes its place.
fn member_replaced(ground: &mut Ground) -> Result<()> {
    let lost = ground.hosts().len() - 1;
    let gone = name(ground, lost);
    let report = ground.trial(&[lost], |trial| {
        ground.lab(&["kill", &gone])?;
        trial.progress(30)?;
        ground.trireme(0, &["member", "remove", &gone])?;
        ground.kubectl(0, &["delete", "node", &gone])?;
        // A server that was removed does not come back as it was.
        let refused = ground.lab(&["restart", &gone]);
        ensure!(refused.is_err() || !ground.ready(lost), "a removed server serves again");
        ground.lab(&["remove-host", &gone])?;
        trial.progress(30)?;
        ground.lab(&["add-host", "--server"])?;
        ground.refresh()?;
        ground.import(&ground.host(lost))?;
        trial.progress(30)
    })?;
    ensure!(ground.hosts().iter().all(|host| host.name != gone), "a host of its own");
    answered(&report)
}
