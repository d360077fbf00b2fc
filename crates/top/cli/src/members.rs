//! `trireme status`, `member`, `token` and `leave`: the cluster as such, asked through this host's kubeconfig.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use trireme_node::admin::Admin;
use trireme_node::join::server::MemberChange;
use trireme_node::join::token::Role;

use crate::version::Output;

/// How the cluster is reached.
#[derive(Args)]
pub(crate) struct Access {
    /// The administrator's kubeconfig
    #[arg(long, env = "TRIREME_KUBECONFIG", default_value = "/etc/trireme/kubeconfig", global = true)]
    kubeconfig: PathBuf,
}

/// Options of `trireme status`.
#[derive(Args)]
pub(crate) struct StatusCommand {
    #[command(flatten)]
    access: Access,
    /// Output form
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// Options of `trireme member`.
#[derive(Args)]
pub(crate) struct MemberCommand {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    command: MemberVerb,
}

#[derive(Subcommand)]
enum MemberVerb {
    /// List the members
    #[command(alias = "ls")]
    List {
        /// Output form
        #[arg(short, long, value_enum)]
        output: Option<Output>,
    },
    /// Take a member out of the cluster for good
    Remove {
        /// Name or id
        member: String,
    },
    /// Give a member that has caught up its vote now
    Promote {
        /// Name or id
        member: String,
    },
    /// Make a member the leader
    Lead {
        /// Name or id [default: any that is up to date]
        member: Option<String>,
    },
}

/// Options of `trireme token`.
#[derive(Args)]
pub(crate) struct TokenCommand {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    command: TokenVerb,
}

#[derive(Subcommand)]
enum TokenVerb {
    /// Make a token that lets one join, and print it
    Create {
        /// What its bearer may become
        #[arg(long, value_enum, default_value = "agent")]
        role: Role,
        /// How long it is valid, for example 30m, 24h or 0 for ever
        #[arg(long, default_value = "24h", value_parser = trireme_node::config::duration)]
        ttl: std::time::Duration,
    },
    /// List tokens, without their secrets
    #[command(alias = "ls")]
    List {
        /// Output form
        #[arg(short, long, value_enum)]
        output: Option<Output>,
    },
    /// Make a token invalid
    #[command(alias = "rm")]
    Revoke {
        /// Ids, or whole tokens
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// Options of `trireme leave`.
#[derive(Args)]
pub(crate) struct LeaveCommand {
    #[command(flatten)]
    access: Access,
    /// Directory of everything that must survive a restart, as given to the server
    #[arg(long, env = "TRIREME_DATA_DIR", default_value = "/var/lib/trireme")]
    data_dir: PathBuf,
}

/// Does something as the cluster's administrator.
pub(crate) fn run_as_admin<T>(access: &Access, work: impl AsyncFnOnce(Admin) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { work(Admin::connect(&access.kubeconfig).await?).await })
}

fn print_json(value: &Value) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints rows below their heads.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    println!("{table}");
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn member_rows(status: &Value) -> Vec<Vec<String>> {
    let leader = &status["leader"];
    let members = status["members"].as_array().into_iter().flatten();
    members
        .map(|known| {
            let member = &known["member"];
            let role = if !leader.is_null() && member["id"] == *leader {
                "leader".to_owned()
            } else {
                text(&known["role"])
            };
            vec![
                text(&member["name"]),
                text(&member["id"]),
                role,
                text(&known["lagEntries"]),
                text(&known["lastHeardMs"]),
                text(&member["version"]),
                text(&member["api"]),
                text(&member["peer"]),
            ]
        })
        .collect()
}

const MEMBER_HEAD: [&str; 8] = ["NAME", "ID", "ROLE", "LAG", "HEARD MS AGO", "VERSION", "API", "PEER"];

/// Shows the members, the leader and the certificates.
pub(crate) fn status(command: &StatusCommand) -> Result<()> {
    run_as_admin(&command.access, async |admin| {
        let status = admin.status().await?;
        if command.output.is_some() {
            return print_json(&status);
        }
        println!("version {}", text(&status["version"]));
        println!(
            "term {}, log applied to entry {}",
            text(&status["term"]),
            text(&status["lastApplied"])
        );
        table(&MEMBER_HEAD, member_rows(&status));
        let soonest = status["certificates"]
            .as_object()
            .and_then(|all| all.iter().min_by_key(|(_, expires)| expires.as_i64()));
        if let Some((name, expires)) = soonest {
            let time = expires
                .as_i64()
                .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
            println!(
                "certificates: the first to expire is {name}, {}",
                time.map_or_else(|| "-".into(), |time| time.to_string())
            );
        }
        if status["leader"].is_null() {
            bail!("there is no leader: less than half of the servers are up, or an election is going on; the API is read-only");
        }
        Ok(())
    })
}

/// Lists and changes members.
pub(crate) fn member(command: MemberCommand) -> Result<()> {
    run_as_admin(&command.access, async |admin| {
        let (change, done) = match command.command {
            MemberVerb::List { output } => {
                let status = admin.status().await?;
                if output.is_some() {
                    return print_json(&status["members"]);
                }
                table(&MEMBER_HEAD, member_rows(&status));
                return Ok(());
            }
            MemberVerb::Remove { member } => (MemberChange::Remove { member: member.clone() }, format!("{member} removed")),
            MemberVerb::Promote { member } => (MemberChange::Promote { member: member.clone() }, format!("{member} promoted")),
            MemberVerb::Lead { member } => (MemberChange::Lead { member }, "leadership transferred".to_owned()),
        };
        admin.change_members(&change).await?;
        println!("{done}");
        Ok(())
    })
}

/// Makes, lists and revokes tokens.
pub(crate) fn token(command: TokenCommand) -> Result<()> {
    run_as_admin(&command.access, async |admin| match command.command {
        TokenVerb::Create { role, ttl } => {
            println!("{}", admin.create_token(role, ttl).await?);
            Ok(())
        }
        TokenVerb::List { output } => {
            let tokens = admin.tokens().await?;
            if output.is_some() {
                return print_json(&json!(tokens));
            }
            let rows = tokens
                .iter()
                .map(|token| vec![text(&token["id"]), text(&token["role"]), text(&token["expires"])])
                .collect();
            table(&["ID", "ROLE", "EXPIRES"], rows);
            Ok(())
        }
        TokenVerb::Revoke { ids } => {
            for id in ids {
                // Of a whole token the id is the last part but one.
                let parts: Vec<&str> = id.split('.').collect();
                let id = if parts.len() > 1 { parts[parts.len() - 2] } else { parts[0] };
                admin.revoke_token(id).await?;
                println!("{id} revoked");
            }
            Ok(())
        }
    })
}

/// Takes this host's server out of its cluster.
pub(crate) fn leave(command: &LeaveCommand) -> Result<()> {
    let path = command.data_dir.join("member.json");
    let place: Value = std::fs::read(&path)
        .with_context(|| format!("this host is no server of a cluster: reading {}", path.display()))
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))?;
    let id = text(&place["member"]["id"]);
    run_as_admin(&command.access, async |admin| {
        let members = admin.status().await?["members"].as_array().map_or(0, Vec::len);
        if members < 2 {
            bail!(
                "this is the only server of its cluster; to end the cluster, stop the server and remove {}",
                command.data_dir.display()
            );
        }
        admin.change_members(&MemberChange::Remove { member: id }).await?;
        println!(
            "{} has left the cluster. Stop its server, delete its node (`kubectl delete node {}`), and remove {} before it joins again.",
            text(&place["member"]["name"]),
            text(&place["member"]["name"]),
            command.data_dir.display()
        );
        Ok(())
    })
}
