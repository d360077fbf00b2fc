//! Streams into pods: logs, exec, attach, cp; and what they use.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{field_becomes, ready, shell};
use crate::cluster::{Cluster, Namespace, contains, eventually};

/// Says five lines, then one for each line of /tmp/say, and ends with code 3 a second after it reads "end": with it goes all
/// that runs in the container, also whoever said so.
const TALKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1.35
    command:
    - sh
    - -c
    - |
      busybox mkfifo /tmp/say
      for i in 1 2 3 4 5; do echo line $i; done
      while true; do read -r line < /tmp/say; echo said $line; [ $line = end ] && sleep 1 && exit 3; done
";

fn talker(space: &Namespace<'_>) -> Result<()> {
    space.apply(TALKER)?;
    ready(space, &["talker"])?;
    space
        .until(&["logs", "talker"], super::PATIENCE, |text| text.contains("line 5"))
        .map(drop)
}

fn say(space: &Namespace<'_>, word: &str) -> Result<()> {
    shell(space, "talker", &format!("echo {word} > /tmp/say")).map(drop)
}

pub(super) fn logs(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("logs")?;
    talker(&space)?;
    ensure!(
        space.run(&["logs", "talker"])? == "line 1\nline 2\nline 3\nline 4\nline 5\n",
        "all lines in order"
    );
    ensure!(
        space.run(&["logs", "talker", "--tail=2"])? == "line 4\nline 5\n",
        "the last two lines"
    );
    ensure!(
        space.run(&["logs", "talker", "--limit-bytes=6"])? == "line 1",
        "as many bytes as asked for"
    );
    ensure!(
        space.run(&["logs", "talker", "--since=1h", "--tail=1"])? == "line 5\n",
        "since an hour ago"
    );
    ensure!(
        space
            .run(&["logs", "talker", "--since-time=2999-01-01T00:00:00Z"])?
            .is_empty(),
        "nothing since the future"
    );
    let stamped = space.run(&["logs", "talker", "--timestamps", "--tail=1"])?;
    let (stamp, line) = stamped.split_once(' ').context("a time and a line")?;
    ensure!(stamp.len() > 20 && stamp.ends_with('Z') && line == "line 5\n", "{stamped}");
    contains(
        &space.run(&["logs", "talker", "--prefix", "--tail=1"])?,
        "[pod/talker/main] line 5",
    )?;
    contains(
        &space.refused(&["logs", "talker", "--previous"])?,
        "previous terminated container \"main\" in pod \"talker\" not found",
    )?;

    let mut follow = space
        .command(&["logs", "-f", "talker", "--tail=1"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("stdout is piped")?).lines();
    let mut next = || -> Result<String> { Ok(lines.next().context("the log goes on")??) };
    let outcome = (|| -> Result<()> {
        ensure!(next()? == "line 5", "it starts with the last line");
        say(&space, "hello")?;
        ensure!(next()? == "said hello", "it follows");
        say(&space, "end")?;
        ensure!(next()? == "said end", "up to the last line");
        Ok(())
    })();
    if outcome.is_err() {
        follow.kill()?;
    }
    // Following ends with the container.
    let status = follow.wait()?;
    outcome?;
    ensure!(status.success(), "kubectl ended by {status}");
    field_becomes(&space, "pod/talker", ".status.containerStatuses[0].restartCount", "1")?;
    ready(&space, &["talker"])?;
    contains(&space.run(&["logs", "talker", "--previous"])?, "said hello\nsaid end\n")?;
    ensure!(
        !space.run(&["logs", "talker"])?.contains("said"),
        "the new container has not said anything"
    );
    contains(
        &space.run(&[
            "get",
            "pod",
            "talker",
            "-o",
            "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}",
        ])?,
        "3",
    )
}

pub(super) fn inside(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("inside")?;
    talker(&space)?;
    let output = space
        .command(&["exec", "talker", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])
        .output()?;
    ensure!(
        output.status.code() == Some(7),
        "the exit code passes through: {:?}",
        output.status
    );
    ensure!(
        output.stdout == b"out\n",
        "standard output is {:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    contains(&String::from_utf8_lossy(&output.stderr), "err\n")?;
    // A megabyte there and back.
    let mut child = space
        .command(&["exec", "-i", "talker", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let writer = {
        let sent = sent.clone();
        std::thread::spawn(move || stdin.write_all(&sent))
    };
    let output = child.wait_with_output()?;
    ensure!(writer.join().is_ok_and(|outcome| outcome.is_ok()), "writing failed");
    ensure!(
        output.stdout == sent,
        "{} of {} bytes came back, or others",
        output.stdout.len(),
        sent.len()
    );
    contains(
        &space.refused(&["exec", "talker", "--", "/no/such"])?,
        "no such file or directory",
    )?;
    contains(
        &space.refused(&["exec", "talker", "-c", "none", "--", "true"])?,
        "container none is not valid for pod talker",
    )?;

    let mut attach = space
        .command(&["attach", "talker"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut first = BufReader::new(attach.stdout.take().context("stdout is piped")?).lines();
    let reader = std::thread::spawn(move || first.next());
    // Attaching takes a moment; what is said before is not shown.
    let heard = eventually("attach shows what is said", super::PATIENCE, || {
        say(&space, "attached")?;
        Ok(reader.is_finished())
    });
    attach.kill()?;
    attach.wait()?;
    heard?;
    let line = reader.join().ok().flatten().context("a line")??;
    ensure!(line == "said attached", "{line}");

    shell(&space, "talker", "busybox test -e /bin/tar || busybox ln -s busybox /bin/tar")?;
    let directory = tempfile::tempdir()?;
    let (there, back) = (directory.path().join("there"), directory.path().join("back"));
    std::fs::write(&there, &sent)?;
    space.run(&["cp", &there.to_string_lossy(), "talker:/tmp/copied"])?;
    contains(&shell(&space, "talker", "wc -c < /tmp/copied")?, "1000000")?;
    space.run(&["cp", "talker:/tmp/copied", &back.to_string_lossy()])?;
    ensure!(std::fs::read(&back)? == sent, "the copy came back as it went");
    Ok(())
}

pub(super) fn terminal(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("terminal")?;
    talker(&space)?;
    let command = space.command(&["exec", "-it", "talker", "--", "sh"]);
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    // script(1) gives kubectl a terminal of its own, of a size that nobody has by chance.
    let script = format!("stty rows 31 cols 107; {}", words.join(" "));
    let mut child = Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let mut stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let seen = std::thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    // The size arrives as soon as kubectl has told it.
    stdin.write_all(b"until stty size | grep -q 107; do sleep 0.1; done; stty size; tty; echo sum $((40 + 2)); exit 5\n")?;
    let status = child.wait()?;
    drop(stdin);
    let seen = seen.join().ok().context("the reader ends")??;
    contains(&seen, "31 107")?;
    contains(&seen, "/dev/pts/")?;
    contains(&seen, "sum 42")?;
    ensure!(status.code() == Some(5), "the exit code passes through: {status}");
    Ok(())
}

pub(super) fn top(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("top")?;
    space.run(&[
        "run",
        "busy",
        "--image=busybox:1.35",
        "--command",
        "--",
        "sh",
        "-c",
        "while true; do for i in $(seq 1000); do :; done; busybox usleep 1000; done",
    ])?;
    ready(&space, &["busy"])?;
    let used = space.until(&["top", "pods", "--no-headers"], Duration::from_secs(60), |text| {
        let figure = text
            .split_whitespace()
            .nth(1)
            .and_then(|cpu| cpu.strip_suffix('m'))
            .and_then(|cpu| cpu.parse::<u32>().ok());
        figure.is_some_and(|cpu| cpu > 20)
    })?;
    contains(&used, "Mi")?;
    contains(&space.run(&["top", "pod", "busy", "--containers", "--no-headers"])?, "busy")?;
    let node = cluster.run(&["top", "nodes", "--no-headers"])?;
    ensure!(node.contains("%") && node.contains("Mi"), "{node}");
    Ok(())
}
