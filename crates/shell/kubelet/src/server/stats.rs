//! Figures of the node and its pods: `/stats/summary`, `/metrics/resource`, the kubelet's own `/metrics`, and
//! `/metrics/usage`, what servers gather for `metrics.k8s.io`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use hyper::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trireme_pod::spec;
use trireme_runtime::cri::Usage;

use super::Context;
use super::routes::{Answer, Refusal, typed};
use crate::shared::PodView;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

fn unavailable() -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, "usage is not known".into())
}

fn views(context: &Context) -> Vec<PodView> {
    context.shared.pods.read().values().cloned().collect()
}

pub(super) async fn summary(context: &Context) -> Result<Answer, Refusal> {
    let (containers, node, time) = context.shared.metrics.raw().await.ok_or_else(unavailable)?;
    let time = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let figures = |usage: &Usage| {
        json!({
            "cpu": {"time": time, "usageCoreNanoSeconds": usage.cpu_nanoseconds},
            "memory": {"time": time, "usageBytes": usage.memory_usage_bytes, "workingSetBytes": usage.memory_working_set_bytes}
        })
    };
    let mut pods = Vec::new();
    for view in views(context) {
        let mut total = Usage::default();
        let own: Vec<Value> = view
            .containers
            .iter()
            .filter(|run| run.running)
            .filter_map(|run| {
                let usage = containers.get(&run.id)?;
                add(&mut total, usage);
                let mut value = figures(usage);
                value["name"] = json!(run.name);
                Some(value)
            })
            .collect();
        let mut value = figures(&total);
        value["podRef"] =
            json!({"name": spec::name(&view.pod), "namespace": spec::namespace(&view.pod), "uid": spec::uid(&view.pod)});
        value["startTime"] = json!(view.pod.status.as_ref().and_then(|status| status.start_time.clone()));
        value["containers"] = json!(own);
        pods.push(value);
    }
    let mut value = figures(&node);
    value["nodeName"] = json!(context.shared.config.node_name);
    if let Some(usage) = cgroup_usage(&format!("{}/kubepods", context.shared.config.cgroup_root.trim_matches('/'))) {
        let mut pods = figures(&usage);
        pods["name"] = json!("pods");
        value["systemContainers"] = json!([pods]);
    }
    let body = json!({"node": value, "pods": pods}).to_string();
    Ok(typed(StatusCode::OK, "application/json", body))
}

fn add(total: &mut Usage, usage: &Usage) {
    total.cpu_nanoseconds += usage.cpu_nanoseconds;
    total.memory_usage_bytes += usage.memory_usage_bytes;
    total.memory_working_set_bytes += usage.memory_working_set_bytes;
}

/// Usage of a cgroup, in either version of cgroups.
fn cgroup_usage(path: &str) -> Option<Usage> {
    let path = path.trim_start_matches('/');
    let read = |file: String| std::fs::read_to_string(file).ok();
    let field = |text: &str, name: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    };
    let number = |text: String| text.trim().parse::<u64>().ok();
    let (cpu_nanoseconds, used, inactive) = if let Some(cpu) = read(format!("/sys/fs/cgroup/{path}/cpu.stat")) {
        let stat = read(format!("/sys/fs/cgroup/{path}/memory.stat")).unwrap_or_default();
        let used = number(read(format!("/sys/fs/cgroup/{path}/memory.current"))?)?;
        (
            field(&cpu, "usage_usec")? * 1000,
            used,
            field(&stat, "inactive_file").unwrap_or(0),
        )
    } else {
        let stat = read(format!("/sys/fs/cgroup/memory/{path}/memory.stat")).unwrap_or_default();
        let used = number(read(format!("/sys/fs/cgroup/memory/{path}/memory.usage_in_bytes"))?)?;
        let cpu = number(read(format!("/sys/fs/cgroup/cpuacct/{path}/cpuacct.usage"))?)?;
        (cpu, used, field(&stat, "total_inactive_file").unwrap_or(0))
    };
    Some(Usage {
        timestamp: 0,
        cpu_nanoseconds,
        memory_working_set_bytes: used.saturating_sub(inactive),
        memory_usage_bytes: used,
    })
}

/// Lines of one metric with its help.
struct Metric {
    head: &'static str,
    lines: String,
}

impl Metric {
    fn new(head: &'static str) -> Self {
        Self {
            head,
            lines: String::new(),
        }
    }

    fn add(&mut self, labels: &str, value: f64, time: Timestamp) {
        let name = self.head.split(' ').next().unwrap_or_default();
        writeln!(self.lines, "{name}{labels} {value} {}", time.as_millisecond()).expect("writing to a string does not fail");
    }

    fn render(&self, text: &mut String) {
        let mut words = self.head.splitn(3, ' ');
        let (name, kind, help) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{}", self.lines).expect("writing to a string does not fail");
    }
}

fn cpu_seconds(usage: &Usage) -> f64 {
    usage.cpu_nanoseconds as f64 / 1e9
}

pub(super) async fn resource(context: &Context) -> Result<Answer, Refusal> {
    let (containers, node, time) = context.shared.metrics.raw().await.ok_or_else(unavailable)?;
    let mut cpu = Metric::new("container_cpu_usage_seconds_total counter CPU seconds used by the container");
    let mut memory = Metric::new("container_memory_working_set_bytes gauge Working set of the container in bytes");
    let mut pod_cpu = Metric::new("pod_cpu_usage_seconds_total counter CPU seconds used by the pod");
    let mut pod_memory = Metric::new("pod_memory_working_set_bytes gauge Working set of the pod in bytes");
    for view in views(context) {
        let mut total = Usage::default();
        let (namespace, pod) = (spec::namespace(&view.pod), spec::name(&view.pod));
        for run in view.containers.iter().filter(|run| run.running) {
            let Some(usage) = containers.get(&run.id) else { continue };
            add(&mut total, usage);
            let labels = format!("{{container=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"}}", run.name);
            cpu.add(&labels, cpu_seconds(usage), time);
            memory.add(&labels, usage.memory_working_set_bytes as f64, time);
        }
        let labels = format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}");
        pod_cpu.add(&labels, cpu_seconds(&total), time);
        pod_memory.add(&labels, total.memory_working_set_bytes as f64, time);
    }
    let mut node_cpu = Metric::new("node_cpu_usage_seconds_total counter CPU seconds used by the node");
    node_cpu.add("", cpu_seconds(&node), time);
    let mut node_memory = Metric::new("node_memory_working_set_bytes gauge Working set of the node in bytes");
    node_memory.add("", node.memory_working_set_bytes as f64, time);
    let mut errors = Metric::new("resource_scrape_error gauge 1 if there was an error while reading usage, 0 otherwise");
    errors.add("", 0.0, time);
    let mut text = String::new();
    for metric in [cpu, memory, node_cpu, node_memory, pod_cpu, pod_memory, errors] {
        metric.render(&mut text);
    }
    Ok(typed(StatusCode::OK, TEXT, text))
}

/// `NodeMetrics` and `PodMetrics` as the metrics API shows them, rates included: `{"node": …, "pods": […]}`.
pub(super) async fn usage(context: &Context) -> Answer {
    let metrics = &context.shared.metrics;
    let (node, pods) = (metrics.node_metrics().await, metrics.pod_metrics().await);
    typed(
        StatusCode::OK,
        "application/json",
        json!({"node": node, "pods": pods}).to_string(),
    )
}

/// Figures of the claims that are mounted, by upstream's names.
async fn claims(context: &Context) -> String {
    let shared = Arc::clone(&context.shared);
    let held = tokio::task::spawn_blocking(move || shared.volumes.claim_usage()).await;
    let views = views(context);
    let mut figures: BTreeMap<(String, String), [u64; 6]> = BTreeMap::new();
    for usage in held.unwrap_or_default() {
        let Some(view) = views.iter().find(|view| spec::uid(&view.pod) == usage.pod_uid) else {
            continue;
        };
        let Some(claim) = claim_name(&view.pod, &usage.volume) else {
            continue;
        };
        let key = (spec::namespace(&view.pod).to_owned(), claim);
        let used = usage.inodes.saturating_sub(usage.inodes_free);
        figures.insert(
            key,
            [
                usage.capacity_bytes,
                usage.available_bytes,
                usage.used_bytes,
                usage.inodes,
                usage.inodes_free,
                used,
            ],
        );
    }
    let mut text = String::new();
    for (index, (name, help)) in [
        ("capacity_bytes", "Size of the claim's file system"),
        ("available_bytes", "Bytes that may still be written to it"),
        ("used_bytes", "Bytes that are written to it"),
        ("inodes", "Most files of it"),
        ("inodes_free", "Files that may still be made in it"),
        ("inodes_used", "Files in it"),
    ]
    .into_iter()
    .enumerate()
    {
        if figures.is_empty() {
            break;
        }
        let name = format!("kubelet_volume_stats_{name}");
        text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
        for ((namespace, claim), figures) in &figures {
            let labels = format!("namespace=\"{namespace}\",persistentvolumeclaim=\"{claim}\"");
            text += &format!("{name}{{{labels}}} {}\n", figures[index]);
        }
    }
    text
}

/// Name of the claim that a volume of a pod stands for.
fn claim_name(pod: &Pod, volume: &str) -> Option<String> {
    let volume = spec::of(pod).volumes.iter().flatten().find(|known| known.name == volume)?;
    match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => Some(format!("{}-{}", spec::name(pod), volume.name)),
    }
}

pub(super) async fn own(context: &Context) -> Answer {
    let views = views(context);
    let running = views.iter().filter(|view| view.sandbox_id.is_some()).count();
    let containers: usize = views
        .iter()
        .map(|view| view.containers.iter().filter(|run| run.running).count())
        .sum();
    let text = claims(context).await
        + &format!(
            "# HELP kubelet_running_pods Pods that have a running sandbox\n# TYPE kubelet_running_pods gauge\nkubelet_running_pods {running}\n\
         # HELP kubelet_running_containers Running containers\n# TYPE kubelet_running_containers gauge\n\
         kubelet_running_containers{{container_state=\"running\"}} {containers}\n\
         # HELP kubelet_node_name The node's name\n# TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{}\"}} 1\n",
            context.shared.config.node_name
        );
    typed(StatusCode::OK, TEXT, text)
}
