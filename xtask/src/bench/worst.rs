//! `bench worst`: which request costs a server most, found by growing hostile requests of many kinds.
//!
//! Invariant: each kind is a function of one size; it is doubled until the server refuses it or the body is full. What is
//! stored lies in a namespace of the measurement's own. It judges nothing: it prints the worst of each kind.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::http::{Call, Connection};
use super::listeners;
use super::process::Processes;
use super::report::{Output, Report, Sheet};
use super::rest::{Rest, unique_namespace, within};
use super::target::Target;
use crate::project::say;

/// Options of `bench worst`.
#[derive(Args)]
pub(crate) struct Worst {
    #[command(flatten)]
    target: Target,
    /// The server's processes; looked up by the listening port where they run on this machine
    #[arg(long, value_delimiter = ',')]
    pids: Vec<i32>,
    /// Only kinds whose name holds this
    #[arg(long, default_value = "")]
    kind: String,
    /// Times that each request is sent for its CPU time, which the kernel counts in hundredths of seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// Largest body that is tried, just below the limit of the API.
const BODY_BYTES_MAX: usize = 3_000_000;
/// Largest query that is tried.
const QUERY_BYTES_MAX: usize = 60_000;
/// Longest wait for an answer, which is a finding of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A kind of request as a function of its size.
struct Kind {
    name: &'static str,
    /// Size to begin with.
    from: usize,
    make: fn(&Place, usize) -> Call,
}

/// Where requests go.
struct Place {
    maps: String,
    namespace: String,
}

/// What one request cost.
#[derive(Clone, Debug)]
struct Cost {
    size: usize,
    body_bytes: usize,
    status: u16,
    cpu_ms: f64,
    /// Peak of resident memory above what it was before.
    memory_kib: u64,
}

impl Cost {
    fn accepted(&self) -> bool {
        self.status < 300
    }
}

/// Searches the worst request of each kind.
///
/// # Errors
/// When the server cannot be reached, or its processes are not found.
pub(crate) async fn run(options: &Worst) -> Result<Report> {
    let endpoint = Arc::new(options.target.resolve().await?);
    let rest = Rest {
        endpoint: endpoint.clone(),
    };
    let version = rest.version().await?;
    let servers = if options.pids.is_empty() {
        Processes(listeners::serving(endpoint.address)?)
    } else {
        Processes::named(&options.pids).context("--pids")?
    };
    ensure!(
        !servers.0.is_empty(),
        "the server's processes are not found on this machine; --pids names them"
    );
    let namespace = unique_namespace("worst");
    let search = Search {
        place: Place {
            maps: format!("/api/v1/namespaces/{namespace}/configmaps"),
            namespace: namespace.clone(),
        },
        rest: rest.clone(),
        servers,
        repeat: options.repeat,
    };
    let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.name.contains(&options.kind)).collect();
    let (found, failures) = within(&rest, &[&namespace], "configmaps", search.all(&kinds)).await?;
    Ok(Report {
        name: "worst",
        facts: vec![
            ("server".into(), format!("{version} at {}", endpoint.url)),
            ("server processes".into(), search.servers.describe()),
        ],
        sheets: vec![Sheet {
            caption: "The worst request of each kind, accepted and refused; memory is the peak above what was resident before."
                .into(),
            header: vec!["kind", "status", "size", "body kB", "CPU ms", "memory MiB"],
            rows: found.iter().map(|(kind, cost)| row(kind, cost)).collect(),
        }],
        results: found.iter().map(|(kind, cost)| shown(kind, cost)).collect(),
        failures,
    })
}

fn row(kind: &str, cost: &Cost) -> Vec<String> {
    vec![
        kind.to_owned(),
        cost.status.to_string(),
        cost.size.to_string(),
        format!("{:.1}", cost.body_bytes as f64 / 1000.0),
        format!("{:.1}", cost.cpu_ms),
        format!("{:.1}", cost.memory_kib as f64 / 1024.0),
    ]
}

fn shown(kind: &str, cost: &Cost) -> Value {
    json!({"kind": kind, "status": cost.status, "size": cost.size, "bodyBytes": cost.body_bytes, "cpuMs": cost.cpu_ms,
        "memoryKib": cost.memory_kib})
}

struct Search {
    place: Place,
    rest: Rest,
    servers: Processes,
    repeat: u32,
}

impl Search {
    async fn all(&self, kinds: &[&Kind]) -> Result<(Vec<(&'static str, Cost)>, Vec<String>)> {
        let victim = json!({"metadata": {"name": "victim", "finalizers": ["example.com/a"]}, "data": {"k": "v"}});
        self.rest.request(Method::POST, &self.place.maps, Some(&victim)).await?;
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for kind in kinds {
            say(kind.name);
            match self.grow(kind).await {
                Ok(costs) => {
                    for accepted in [true, false] {
                        let worst = costs.iter().filter(|cost| cost.accepted() == accepted);
                        if let Some(worst) = worst.max_by(|a, b| a.cpu_ms.total_cmp(&b.cpu_ms)) {
                            found.push((kind.name, worst.clone()));
                        }
                    }
                }
                Err(error) => failures.push(format!("{}: {error:#}", kind.name)),
            }
        }
        let path = format!("{}/victim", self.place.maps);
        let freed = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
        let call = Call::with(Method::PATCH, path, freed.to_string()).of_type("application/json-patch+json");
        Connection::open(&self.rest.endpoint).await?.exchange(call).await?;
        Ok((found, failures))
    }

    /// Doubles a kind's size until its request is refused or full.
    async fn grow(&self, kind: &Kind) -> Result<Vec<Cost>> {
        let mut costs = Vec::new();
        let mut size = kind.from;
        loop {
            let call = (kind.make)(&self.place, size);
            if call.body.len() > BODY_BYTES_MAX || call.path.len() > QUERY_BYTES_MAX {
                return Ok(costs);
            }
            let cost = self.cost(size, call).await?;
            let refused = !cost.accepted();
            costs.push(cost);
            // One size beyond the first refusal tells whether refusing grows, too.
            if refused && costs.iter().filter(|cost| !cost.accepted()).count() > 2 {
                return Ok(costs);
            }
            size *= 2;
        }
    }

    async fn cost(&self, size: usize, call: Call) -> Result<Cost> {
        let body_bytes = call.body.len();
        let mut connection = Connection::open(&self.rest.endpoint).await?;
        self.servers.forget_peak()?;
        let before = self.servers.memory()?.rss;
        let (status, _) = tokio::time::timeout(ANSWER_LIMIT, connection.exchange(call.clone()))
            .await
            .with_context(|| format!("no answer within {} s at size {size}", ANSWER_LIMIT.as_secs()))??;
        let memory_kib = self.servers.peak()?.saturating_sub(before);
        let begun = self.servers.cpu()?;
        for _ in 0..self.repeat {
            connection.exchange(call.clone()).await?;
        }
        let spent = self.servers.cpu()?.saturating_sub(begun);
        Ok(Cost {
            size,
            body_bytes,
            status: status.as_u16(),
            cpu_ms: spent.as_secs_f64() * 1000.0 / f64::from(self.repeat),
            memory_kib,
        })
    }
}

fn post(place: &Place, body: impl Into<Bytes>) -> Call {
    Call::with(Method::POST, format!("{}?dryRun=All", place.maps), body)
}

fn patch(place: &Place, media_type: &'static str, body: impl Into<Bytes>) -> Call {
    let path = format!(
        "{}/victim?dryRun=All&fieldManager=worst&force={}",
        place.maps,
        media_type.contains("apply")
    );
    let path = if media_type.contains("apply") {
        path
    } else {
        path.replace("&force=false", "")
    };
    Call::with(Method::PATCH, path, body).of_type(media_type)
}

fn list(place: &Place, query: &str) -> Call {
    let encoded: String = query
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'(' | b')' | b',' | b'!' | b'=' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    Call::get(format!("{}?{encoded}", place.maps))
}

fn many(size: usize, item: impl Fn(usize) -> String) -> String {
    (0..size).map(item).collect::<Vec<_>>().join(",")
}

fn map_with(members: &str) -> String {
    format!(r#"{{"metadata":{{"name":"hostile"}},{members}}}"#)
}

fn pods(place: &Place, spec: &str) -> Call {
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", place.namespace);
    Call::with(
        Method::POST,
        path,
        format!(r#"{{"metadata":{{"name":"hostile"}},"spec":{{{spec}}}}}"#),
    )
}

fn definition(properties: &str) -> Call {
    let body = format!(
        r#"{{"metadata":{{"name":"hostiles.example.com"}},"spec":{{"group":"example.com","scope":"Namespaced","names":{{"plural":"hostiles",
        "singular":"hostile","kind":"Hostile","listKind":"HostileList"}},"versions":[{{"name":"v1","served":true,"storage":true,
        "schema":{{"openAPIV3Schema":{{"type":"object","properties":{{{properties}}}}}}}}}]}}}}"#
    );
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All";
    Call::with(Method::POST, path, body)
}

fn operations(operation: &str, size: usize) -> String {
    format!("[{}]", vec![operation; size].join(","))
}

const YAML: &str = "application/yaml";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

const KINDS: &[Kind] = &[
    Kind {
        name: "create: keys of a map",
        from: 1000,
        make: |place, size| {
            post(
                place,
                map_with(&format!(r#""data":{{{}}}"#, many(size, |n| format!(r#""k{n}":"""#)))),
            )
        },
    },
    Kind {
        name: "create: keys that are invalid",
        from: 1000,
        make: |place, size| {
            post(
                place,
                map_with(&format!(r#""data":{{{}}}"#, many(size, |n| format!(r#""k {n}":"""#)))),
            )
        },
    },
    Kind {
        name: "create: numbers in an unknown field",
        from: 1000,
        make: |place, size| post(place, map_with(&format!(r#""x":[{}]"#, many(size, |_| "0".into())))),
    },
    Kind {
        name: "create: unknown fields",
        from: 1000,
        make: |place, size| post(place, map_with(&many(size, |n| format!(r#""x{n}":0"#)))),
    },
    Kind {
        name: "create: one unknown field repeated",
        from: 1000,
        make: |place, size| post(place, map_with(&many(size, |_| r#""x":0"#.into()))),
    },
    Kind {
        name: "create: escapes in one text",
        from: 1000,
        make: |place, size| post(place, map_with(&format!(r#""data":{{"k":"{}"}}"#, "\\u00e9\\n".repeat(size)))),
    },
    Kind {
        name: "create: depth",
        from: 16,
        make: |place, size| post(place, map_with(&format!(r#""x":{}{}"#, "[".repeat(size), "]".repeat(size)))),
    },
    Kind {
        name: "create: finalizers",
        from: 100,
        make: |place, size| {
            post(
                place,
                format!(
                    r#"{{"metadata":{{"name":"hostile","finalizers":[{}]}}}}"#,
                    many(size, |n| format!(r#""e.com/{n}""#))
                ),
            )
        },
    },
    Kind {
        name: "create: equal owner references",
        from: 100,
        make: |place, size| {
            post(
                place,
                format!(
                    r#"{{"metadata":{{"name":"hostile","ownerReferences":[{}]}}}}"#,
                    many(size, |_| r#"{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}"#.into())
                ),
            )
        },
    },
    Kind {
        name: "create: owner references",
        from: 100,
        make: |place, size| {
            post(
                place,
                format!(
                    r#"{{"metadata":{{"name":"hostile","ownerReferences":[{}]}}}}"#,
                    many(size, |n| format!(
                        r#"{{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u{n}"}}"#
                    ))
                ),
            )
        },
    },
    Kind {
        name: "create: owners of fields",
        from: 100,
        make: |place, size| {
            post(
                place,
                format!(
                    r#"{{"metadata":{{"name":"hostile","managedFields":[{}]}}}}"#,
                    many(size, |n| format!(
                        r#"{{"manager":"m{n}","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{{"f:data":{{"f:k{n}":{{}}}}}}}}"#
                    ))
                ),
            )
        },
    },
    Kind {
        name: "create pod: containers",
        from: 10,
        make: |place, size| {
            pods(
                place,
                &format!(
                    r#""containers":[{}]"#,
                    many(size, |n| format!(r#"{{"name":"c{n}","image":"i"}}"#))
                ),
            )
        },
    },
    Kind {
        name: "create pod: variables",
        from: 100,
        make: |place, size| {
            pods(
                place,
                &format!(
                    r#""containers":[{{"name":"c","image":"i","env":[{}]}}]"#,
                    many(size, |n| format!(r#"{{"name":"E{n}","value":"v"}}"#))
                ),
            )
        },
    },
    Kind {
        name: "create pod: ports",
        from: 100,
        make: |place, size| {
            pods(
                place,
                &format!(
                    r#""containers":[{{"name":"c","image":"i","ports":[{}]}}]"#,
                    many(size, |n| format!(r#"{{"containerPort":{}}}"#, n % 65_535 + 1))
                ),
            )
        },
    },
    Kind {
        name: "create pod: volumes",
        from: 100,
        make: |place, size| {
            pods(
                place,
                &format!(
                    r#""containers":[{{"name":"c","image":"i"}}],"volumes":[{}]"#,
                    many(size, |n| format!(r#"{{"name":"v{n}","emptyDir":{{}}}}"#))
                ),
            )
        },
    },
    Kind {
        name: "create pod: tolerations",
        from: 100,
        make: |place, size| {
            pods(
                place,
                &format!(
                    r#""containers":[{{"name":"c","image":"i"}}],"tolerations":[{}]"#,
                    many(size, |n| format!(r#"{{"key":"k{n}","operator":"Exists"}}"#))
                ),
            )
        },
    },
    Kind {
        name: "create definition: properties",
        from: 100,
        make: |_, size| definition(&many(size, |n| format!(r#""p{n}":{{"type":"string"}}"#))),
    },
    Kind {
        name: "create definition: properties below a long name",
        from: 100,
        make: |_, size| {
            definition(&format!(
                r#""{}":{{"type":"object","properties":{{{}}}}}"#,
                "n".repeat(size * 10),
                many(size, |n| format!(r#""p{n}":{{"type":"string"}}"#))
            ))
        },
    },
    Kind {
        name: "create YAML: keys of a map",
        from: 1000,
        make: |place, size| {
            post(
                place,
                format!(
                    "metadata: {{name: hostile}}\ndata:\n{}",
                    (0..size).map(|n| format!("  k{n}: ''\n")).collect::<String>()
                ),
            )
            .of_type(YAML)
        },
    },
    Kind {
        name: "create YAML: numbers in an unknown field",
        from: 1000,
        make: |place, size| {
            post(
                place,
                format!("metadata: {{name: hostile}}\nx: [{}]\n", many(size, |_| " 0".into())),
            )
            .of_type(YAML)
        },
    },
    Kind {
        name: "create YAML: aliases",
        from: 10,
        make: |place, size| {
            post(
                place,
                format!(
                    "metadata: {{name: hostile}}\nx: &x [a, b, c, d, e, f, g, h]\ny: [{}]\n",
                    many(size, |_| " *x".into())
                ),
            )
            .of_type(YAML)
        },
    },
    Kind {
        name: "create YAML: depth",
        from: 16,
        make: |place, size| post(place, format!("metadata: {{name: hostile}}\nx: {}0\n", "- ".repeat(size))).of_type(YAML),
    },
    Kind {
        name: "JSON patch: copies",
        from: 2,
        make: |place, size| {
            patch(
                place,
                JSON_PATCH,
                operations(
                    r#"{"op":"copy","from":"/metadata/finalizers","path":"/metadata/finalizers/-"}"#,
                    size,
                ),
            )
        },
    },
    Kind {
        name: "JSON patch: elements put in front",
        from: 100,
        make: |place, size| {
            patch(
                place,
                JSON_PATCH,
                operations(r#"{"op":"add","path":"/metadata/finalizers/0","value":"e.com/x"}"#, size),
            )
        },
    },
    Kind {
        name: "JSON patch: tests",
        from: 100,
        make: |place, size| {
            patch(
                place,
                JSON_PATCH,
                operations(r#"{"op":"test","path":"/data/k","value":"v"}"#, size),
            )
        },
    },
    Kind {
        name: "merge patch: keys of a map",
        from: 1000,
        make: |place, size| {
            patch(
                place,
                MERGE,
                format!(r#"{{"data":{{{}}}}}"#, many(size, |n| format!(r#""k{n}":"""#))),
            )
        },
    },
    Kind {
        name: "strategic patch: finalizers",
        from: 100,
        make: |place, size| {
            patch(
                place,
                STRATEGIC,
                format!(
                    r#"{{"metadata":{{"finalizers":[{0}],"$setElementOrder/finalizers":[{0}]}}}}"#,
                    many(size, |n| format!(r#""e.com/{n}""#))
                ),
            )
        },
    },
    Kind {
        name: "apply: keys of a map",
        from: 1000,
        make: |place, size| {
            patch(
                place,
                APPLY,
                format!(
                    r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"victim"}},"data":{{{}}}}}"#,
                    many(size, |n| format!(r#""k{n}":"""#))
                ),
            )
        },
    },
    Kind {
        name: "apply: finalizers",
        from: 100,
        make: |place, size| {
            patch(
                place,
                APPLY,
                format!(
                    r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"victim","finalizers":[{}]}}}}"#,
                    many(size, |n| format!(r#""e.com/{n}""#))
                ),
            )
        },
    },
    Kind {
        name: "apply: unknown fields below a long name",
        from: 100,
        make: |place, size| {
            patch(
                place,
                APPLY,
                format!(
                    r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"victim","ownerReferences":[{{"uid":"{}"{}}}]}}}}"#,
                    "n".repeat(size * 10),
                    (0..size).map(|n| format!(r#","x{n}":1"#)).collect::<String>()
                ),
            )
        },
    },
    Kind {
        name: "list: parentheses",
        from: 1000,
        make: |place, size| list(place, &format!("labelSelector={}", "(".repeat(size))),
    },
    Kind {
        name: "list: labels that must not be",
        from: 100,
        make: |place, size| list(place, &format!("labelSelector={}", many(size, |n| format!("!k{n}")))),
    },
    Kind {
        name: "list: values of a label",
        from: 100,
        make: |place, size| list(place, &format!("labelSelector=a in ({})", many(size, |n| format!("v{n}")))),
    },
    Kind {
        name: "list: terms on a field",
        from: 100,
        make: |place, size| {
            list(
                place,
                &format!("fieldSelector={}", many(size, |n| format!("metadata.name!=n{n}"))),
            )
        },
    },
];
