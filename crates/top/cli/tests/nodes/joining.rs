//! Who may not join is told why in one line, and nothing is changed on either side. (Clocks and versions that are too far
//! apart are tried where the checks are: in the node crate.)

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::ground::{Ground, SERVERS, eventually};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("who_may_not_join_is_told_in_one_line", refused)];

/// Where the one who joins keeps its data: in a host that is a node already, beside that.
const DATA: &str = "/run/joiner";

/// One attempt.
struct Attempt<'a> {
    what: &'a str,
    role: &'a str,
    name: &'a str,
    server: String,
    token: String,
    further: &'a [&'a str],
    /// What the line must say, each part of it.
    told: &'a [&'a str],
}

fn token(ground: &Ground, arguments: &[&str]) -> Result<String> {
    ground.exec(&ground.hosts[0].name, &[&["trireme", "token", "create"], arguments].concat())
}

fn refused(ground: &mut Ground) -> Result<()> {
    let url = format!("https://{}:6443", ground.hosts[0].address);
    let nobody = format!("https://{}:6443", ground.hosts[SERVERS].address);
    let (agent, server) = (token(ground, &["--role", "agent"])?, token(ground, &["--role", "server"])?);
    let lives = ground.hosts[1].name.clone();
    let hash = agent.split('.').nth(2).context("a token has five parts")?;
    let other_hash: String = hash.chars().rev().collect();
    let revoked = token(ground, &["--role", "agent"])?;
    ground.exec(&ground.hosts[0].name, &["trireme", "token", "revoke", &revoked])?;
    let expired = token(ground, &["--role", "agent", "--ttl", "1s"])?;
    eventually("the token's end", || {
        let listed = ground.exec(&ground.hosts[0].name, &["trireme", "token", "list", "-o", "json"])?;
        let id = expired.split('.').nth(3).unwrap_or_default();
        Ok(!listed.contains(id))
    })?;
    let attempt = |what, role, token: &str, told| Attempt {
        what,
        role,
        name: "joiner",
        server: url.clone(),
        token: token.to_owned(),
        further: &[],
        told,
    };
    let taken = [&*lives, "lives in this cluster already", "--node-name"];
    let silent = ["no server answers at", &nobody["https://".len()..]];
    let attempts = [
        attempt(
            "a token of another CA",
            "agent",
            &agent.replace(hash, &other_hash),
            &["does not belong to the cluster of this token", "check the address"],
        ),
        attempt(
            "the same as server",
            "server",
            &server.replace(hash, &other_hash),
            &["does not belong to the cluster of this token"],
        ),
        attempt(
            "an expired token",
            "agent",
            &expired,
            &["has expired or was revoked", "trireme token create --role agent"],
        ),
        attempt(
            "a revoked token",
            "agent",
            &revoked,
            &["has expired or was revoked", "trireme token create --role agent"],
        ),
        attempt(
            "an agent's token for a server",
            "server",
            &agent,
            &["does not let one join as server", "--role server"],
        ),
        attempt(
            "a server's token for an agent",
            "agent",
            &server,
            &["lets a server join", "--role agent"],
        ),
        attempt(
            "no token at all",
            "agent",
            "nonsense",
            &["this is no join token", "trireme token create"],
        ),
        Attempt {
            name: &lives,
            ..attempt("a name that is taken", "agent", &agent, &taken)
        },
        Attempt {
            name: &lives,
            ..attempt("the same as server", "server", &server, &taken)
        },
        Attempt {
            further: &["--service-cidr", "10.99.0.0/16"],
            ..attempt(
                "another --service-cidr",
                "server",
                &server,
                &["--service-cidr is 10.99.0.0/16", "start with --service-cidr 10.43.0.0/16"],
            )
        },
        Attempt {
            further: &["--pod-network", "host-gw"],
            ..attempt(
                "another --pod-network",
                "server",
                &server,
                &["start with --pod-network vxlan"],
            )
        },
        Attempt {
            server: nobody.clone(),
            ..attempt("no server there", "agent", &agent, &silent)
        },
        Attempt {
            server: nobody.clone(),
            ..attempt("no server there", "server", &server, &silent)
        },
        Attempt {
            server: "192.0.2.1".into(),
            ..attempt(
                "an address that is none",
                "agent",
                &agent,
                &["--join", "should look like https://"],
            )
        },
    ];
    for attempt in attempts {
        try_to_join(ground, &attempt).with_context(|| format!("{} ({})", attempt.what, attempt.role))?;
    }
    let members = ground.exec(&ground.hosts[0].name, &["trireme", "member", "list", "-o", "json"])?;
    let members: serde_json::Value = serde_json::from_str(&members)?;
    ensure!(
        members.as_array().is_some_and(|all| all.len() == SERVERS),
        "members: {members}"
    );
    let status = ground.exec(&ground.hosts[0].name, &["trireme", "status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let mut known = status["members"].as_array().into_iter().flatten();
    ensure!(
        known.all(|known| known["member"]["version"] == status["version"]),
        "every member tells what it runs: {status}"
    );
    ensure!(
        ground
            .kubectl(0, &["get", "nodes", "-o", "name"])?
            .lines()
            .all(|node| node != "node/joiner")
    );
    Ok(())
}

fn try_to_join(ground: &Ground, attempt: &Attempt<'_>) -> Result<()> {
    let host = ground.hosts.last().context("there are hosts")?;
    let mut command = vec![
        "timeout",
        "30",
        "trireme",
        attempt.role,
        "--data-dir",
        DATA,
        "--run-dir",
        "/run/joiner-run",
    ];
    command.extend([
        "--node-name",
        attempt.name,
        "--node-ip",
        &host.address,
        "--kubelet-port",
        "10999",
    ]);
    command.extend(["--join", &attempt.server, "--token", &attempt.token, "--join-timeout", "1s"]);
    let settings = format!("{0}.210-{0}.219", ground.subnet());
    if attempt.role == "server" {
        command.extend([
            "--secure-port",
            "7443",
            "--peer-port",
            "2381",
            "--kubeconfig",
            "/run/joiner/kubeconfig",
        ]);
        command.extend(["--load-balancer-pool", &settings]);
    }
    command.extend(attempt.further);
    let output = ground.try_exec(&host.name, &command)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{:?}: {said}", output.status);
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("trireme: ")).collect();
    let [line] = lines[..] else {
        anyhow::bail!("not one line:\n{said}")
    };
    ensure!(said.trim_end().ends_with(line), "not the last line:\n{said}");
    ensure!(
        !line.contains(attempt.token.rsplit('.').next().unwrap_or_default()),
        "a secret is shown: {line}"
    );
    for part in attempt.told {
        ensure!(line.contains(part), "{part:?} is not in: {line}");
    }
    let left = ground.exec(
        &host.name,
        &[
            "sh",
            "-c",
            "find /run/joiner /run/joiner-run -mindepth 1 2> /dev/null || true",
        ],
    )?;
    ensure!(left.is_empty(), "left behind: {left}");
    Ok(())
}
