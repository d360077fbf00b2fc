//! How upstream answers, as facts: request, status, reason, message and causes, replayed in process.
//!
//! `facts.jsonl` holds one request a line, in the order in which they were asked of a stock 1.36 server; a line that begins
//! with `{"from"` begins with a new server. A line without a `code` prepares what follows. It is made by
//! `cargo xtask oracle --from DIRECTORY`, which keeps what holds, so it can only grow by hand or by mending the server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trireme_apiserver::authn::{Chain, TokenFile};
use trireme_apiserver::policy::{PolicyAdmission, PolicyAuthorizer, bootstrap_roles};
use trireme_apiserver::{ApiServer, Config, Plugins};
use trireme_store::{MemoryStore, Store};

/// One request and what is known of its answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Fact {
    /// Where what follows is from; a new server begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Method and path.
    #[serde(default, rename = "do", skip_serializing_if = "String::is_empty")]
    asked: String,
    /// Who asks; the administrator where empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    body: Value,
    /// Status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    says: String,
    /// Reasons and fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    causes: Vec<(String, String)>,
}

/// Turns that others have between two requests: more than any of them needs for one change.
const TURNS: usize = 20;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/facts/facts.jsonl")
}

async fn server() -> Arc<ApiServer> {
    let tokens = "ADMIN,admin,u1,\"system:masters\"\nALICE,alice,u2\nNODE,system:node:node-1,u3,\"system:nodes\"\n";
    let store: Arc<dyn Store> = MemoryStore::new();
    let authorizer = PolicyAuthorizer::start(Arc::clone(&store));
    let plugins = Plugins {
        authorizer: Arc::clone(&authorizer) as _,
        admission: Arc::new(PolicyAdmission::new(authorizer)),
        authenticator: Arc::new(Chain::new(vec![Arc::new(TokenFile::parse(tokens).unwrap())])),
        dialer: None,
        tokens: None,
        metrics: None,
        extension: None,
    };
    let settings = Config {
        service_cidrs: vec![trireme_apiserver::Cidr::parse("10.96.0.0/16").unwrap()],
        anonymous: true,
        ..Config::default()
    };
    let server = ApiServer::build(settings, store, plugins);
    bootstrap_roles(&server).await.unwrap();
    server.bootstrap().await.unwrap();
    server
}

/// What the server answers, in the form of a fact.
async fn ask(server: &Arc<ApiServer>, fact: &Fact) -> Fact {
    let (method, target) = fact.asked.split_once(' ').unwrap_or_default();
    let token = match fact.user.as_str() {
        "" => Some("ADMIN"),
        "alice" => Some("ALICE"),
        "node" => Some("NODE"),
        "anonymous" => None,
        _ => Some("NOBODY"),
    };
    let mut request = Request::builder().method(method).uri(target).header("user-agent", "oracle/1");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    for (name, value) in &fact.headers {
        request = request.header(name, value);
    }
    let body = match &fact.body {
        Value::Null => Bytes::new(),
        Value::String(text) => text.clone().into(),
        other => {
            if !fact.headers.contains_key("content-type") {
                request = request.header("content-type", "application/json");
            }
            other.to_string().into()
        }
    };
    let response = server.handle(request.body(Full::new(body)).unwrap()).await;
    // What follows the store in the background has its turn, on this one thread, before the next request comes.
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Fact {
        code: Some(code),
        ..told(&answer)
    }
}

/// What a Status tells.
fn told(answer: &Value) -> Fact {
    if answer["kind"] != "Status" {
        return Fact::default();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let causes = answer["details"]["causes"].as_array().into_iter().flatten();
    Fact {
        reason: text(&answer["reason"]),
        says: text(&answer["message"]),
        causes: causes.map(|cause| (text(&cause["reason"]), text(&cause["field"]))).collect(),
        ..Fact::default()
    }
}

fn differs(fact: &Fact, found: &Fact) -> bool {
    (fact.code, &fact.reason, &fact.says, &fact.causes) != (found.code, &found.reason, &found.says, &found.causes)
}

/// Facts in order, each with what was found.
async fn replay(facts: Vec<Fact>) -> Vec<(Fact, Fact)> {
    let (mut pairs, mut running) = (Vec::new(), None);
    for fact in facts {
        if fact.from.is_some() || running.is_none() {
            running = Some(server().await);
        }
        let found = match &running {
            Some(server) if fact.from.is_none() => ask(server, &fact).await,
            _ => Fact::default(),
        };
        pairs.push((fact, found));
    }
    pairs
}

#[tokio::test]
async fn answers_are_upstreams() {
    let text = std::fs::read_to_string(path()).unwrap();
    let facts: Vec<Fact> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let asked = facts.iter().filter(|fact| fact.code.is_some()).count();
    assert!(asked > 500, "{asked}");
    let mut wrong = String::new();
    for (fact, found) in replay(facts).await {
        if fact.code.is_some() && differs(&fact, &found) {
            let Fact { asked, body, .. } = &fact;
            writeln!(
                wrong,
                "{asked} {body}\n  upstream {:?} {} {:?}",
                fact.code, fact.says, fact.causes
            )
            .unwrap();
            writeln!(wrong, "  here     {:?} {} {:?}", found.code, found.says, found.causes).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A step of the recorded scenarios; `None` where it is of no use here.
fn step(line: &Value) -> Option<Fact> {
    let text = line.to_string();
    if text.contains("${")
        || ["watch", "background", "collect", "poll", "body_b64", "body_repeat"]
            .iter()
            .any(|key| line.get(key).is_some())
    {
        return None;
    }
    let user = line["user"].as_str()?;
    let headers = line["headers"].as_object().into_iter().flatten();
    let mut fact = Fact {
        asked: format!("{} {}", line["method"].as_str()?, line["path"].as_str()?),
        user: if user == "admin" { String::new() } else { user.to_owned() },
        headers: headers
            .map(|(name, value)| (name.to_lowercase(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        body: line.get("body").or(line.get("body_text")).cloned().unwrap_or_default(),
        ..Fact::default()
    };
    if let Some(answer) = line.get("answer") {
        fact = Fact {
            code: Some(u16::try_from(answer["status"].as_u64()?).ok()?),
            from: None,
            asked: fact.asked,
            user: fact.user,
            headers: fact.headers,
            body: fact.body,
            ..told(&answer["body"])
        };
    }
    Some(fact)
}

/// Longer ones tell little more than others and are left out.
const LINE_BYTES_MAX: usize = 2500;

/// Writes `facts.jsonl` anew from recorded scenarios: those that hold.
#[tokio::test]
#[ignore = "writes facts.jsonl; run by `cargo xtask oracle`"]
async fn refresh() {
    let from = PathBuf::from(std::env::var_os("TRIREME_ORACLE").expect("TRIREME_ORACLE names the directory of the scenarios"));
    let names = std::fs::read_dir(&from).unwrap().map(|entry| entry.unwrap().path());
    let wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        ["validation.", "protocol.", "authz.", "admission."]
            .iter()
            .any(|area| name.starts_with(area))
    };
    let mut files: Vec<PathBuf> = names.filter(wanted).collect();
    files.sort();
    let mut out = String::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let short = text.lines().filter(|line| line.len() <= LINE_BYTES_MAX);
        let steps = short.filter_map(|line| step(&serde_json::from_str(line).unwrap())).collect();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let mut lines = vec![Fact {
            from: Some(name),
            ..Fact::default()
        }];
        for (mut fact, found) in replay(steps).await {
            // What stands for something that differs each time is no fact.
            let vague = fact.says.contains('<');
            if fact.code.is_some() && (vague || differs(&fact, &found)) {
                if fact.code.is_some_and(|code| code >= 400) {
                    continue;
                }
                fact = Fact {
                    code: None,
                    reason: String::new(),
                    says: String::new(),
                    causes: vec![],
                    ..fact
                };
            }
            lines.push(fact);
        }
        if lines.iter().any(|fact| fact.code.is_some()) {
            for line in lines {
                writeln!(out, "{}", serde_json::to_string(&line).unwrap()).unwrap();
            }
        }
    }
    std::fs::write(path(), out).unwrap();
}
