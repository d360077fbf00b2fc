//! Cuts and losses, seen by datagrams from host to host.

use anyhow::{Result, ensure};

use crate::{Ground, call, eventually, ground, inside};

/// Hosts `NAME-1`, `NAME-2` and so on, each with an echo that listens.
fn talkers(name: &str, hosts: u8) -> Result<Ground> {
    let lab = ground(name, hosts, None)?;
    for host in lab.hosts()? {
        lab.start(host.name(), &inside(&["echo"])?)?;
        eventually("an echo that listens", || Ok(heard(&lab, host.name(), "listening")? == 1))?;
    }
    Ok(lab)
}

/// How often a host heard a text.
fn heard(lab: &Ground, host: &str, text: &str) -> Result<usize> {
    let log = std::fs::read_to_string(lab.host(host)?.log())?;
    Ok(log.lines().filter(|line| *line == text).count())
}

/// Has one host say something to another; how many echoes came back.
fn talk(lab: &Ground, from: &str, to: &str, text: &str, count: u32) -> Result<u32> {
    let address = lab.host(to)?.address().to_string();
    Ok(call(lab, from, &["talk", &address, text, &count.to_string()])?.parse()?)
}

/// The same from the machine.
fn talk_from_machine(lab: &Ground, to: &str, text: &str) -> Result<u32> {
    Ok(crate::inside::talk(&lab.host(to)?.address().to_string(), text, 5)?)
}

pub(crate) fn cut() -> Result<()> {
    let lab = talkers("t-cut", 3)?;
    ensure!(talk(&lab, "t-cut-1", "t-cut-2", "before", 5)? == 5);
    lab.cut("t-cut-1", Some("t-cut-2"), false)?;
    ensure!(talk(&lab, "t-cut-1", "t-cut-2", "cut", 5)? == 0);
    ensure!(talk(&lab, "t-cut-2", "t-cut-1", "cut", 5)? == 0);
    ensure!(heard(&lab, "t-cut-1", "cut")? + heard(&lab, "t-cut-2", "cut")? == 0);
    // Others are not concerned.
    ensure!(talk(&lab, "t-cut-1", "t-cut-3", "third", 5)? == 5);
    ensure!(talk_from_machine(&lab, "t-cut-1", "machine")? == 5);
    lab.heal(Some("t-cut-2"), Some("t-cut-1"))?;
    ensure!(lab.faults()?.is_empty());
    eventually("an answer after healing", || {
        Ok(talk(&lab, "t-cut-1", "t-cut-2", "healed", 5)? == 5)
    })
}

pub(crate) fn one_way() -> Result<()> {
    let lab = talkers("t-oneway", 2)?;
    // So that both know each other's hardware address.
    ensure!(talk(&lab, "t-oneway-1", "t-oneway-2", "before", 5)? == 5);
    lab.cut("t-oneway-1", Some("t-oneway-2"), true)?;
    ensure!(talk(&lab, "t-oneway-2", "t-oneway-1", "there", 5)? == 0);
    ensure!(heard(&lab, "t-oneway-1", "there")? == 5, "what the second sends arrives");
    ensure!(talk(&lab, "t-oneway-1", "t-oneway-2", "not", 5)? == 0);
    ensure!(heard(&lab, "t-oneway-2", "not")? == 0, "what the first sends does not");
    lab.heal(None, None)?;
    eventually("an answer after healing", || {
        Ok(talk(&lab, "t-oneway-1", "t-oneway-2", "healed", 5)? == 5)
    })
}

pub(crate) fn lossy() -> Result<()> {
    let lab = talkers("t-lossy", 2)?;
    ensure!(talk(&lab, "t-lossy-1", "t-lossy-2", "before", 5)? == 5);
    lab.lossy("t-lossy-1", Some("t-lossy-2"), false, 30)?;
    let answers = talk(&lab, "t-lossy-1", "t-lossy-2", "lossy", 2000)? as usize;
    let arrived = heard(&lab, "t-lossy-2", "lossy")?;
    // 1400 and 980 on average; the bounds are many deviations away.
    ensure!((1200..1600).contains(&arrived), "{arrived} of 2000 arrived");
    ensure!((800..1160).contains(&answers), "{answers} of 2000 were answered");
    lab.lossy("t-lossy-1", Some("t-lossy-2"), false, 0)?;
    ensure!(lab.faults()?.is_empty());
    ensure!(lab.lossy("t-lossy-1", None, false, 101).is_err());
    ensure!(talk(&lab, "t-lossy-1", "t-lossy-2", "after", 5)? == 5);
    Ok(())
}

pub(crate) fn cut_off() -> Result<()> {
    let lab = talkers("t-off", 3)?;
    lab.cut("t-off-1", None, false)?;
    ensure!(talk(&lab, "t-off-1", "t-off-2", "a", 3)? == 0);
    ensure!(talk(&lab, "t-off-3", "t-off-1", "b", 3)? == 0);
    ensure!(talk_from_machine(&lab, "t-off-1", "c")? == 0);
    ensure!(talk(&lab, "t-off-2", "t-off-3", "d", 3)? == 3);
    // One link of it is healed, the others stay cut.
    lab.heal(Some("t-off-1"), Some("machine"))?;
    eventually("an answer to the machine", || {
        Ok(talk_from_machine(&lab, "t-off-1", "e")? == 5)
    })?;
    ensure!(talk(&lab, "t-off-1", "t-off-2", "f", 3)? == 0);
    let error = lab
        .cut("t-off-9", None, false)
        .expect_err("there is no such host")
        .to_string();
    ensure!(error.contains("has no host \"t-off-9\""), "{error}");
    Ok(())
}
