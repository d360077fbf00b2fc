//! The content of `/etc/resolv.conf` in a pod by its dnsPolicy and dnsConfig.
//!
//! Invariant: at most 3 name servers, 32 search domains and 2048 characters of search path, as upstream cuts them.

use k8s_openapi::api::core::v1::Pod;

use crate::spec;

/// Cluster DNS settings of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Name servers for pods.
    pub servers: Vec<String>,
    /// Domain, for example `cluster.local`.
    pub domain: String,
}

#[derive(Default)]
struct Settings {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The file for a pod; `host` is the content of the node's own file.
#[must_use]
pub fn content(pod: &Pod, cluster: &ClusterDns, host: &str) -> String {
    let pod_spec = spec::of(pod);
    let host = parse(host);
    let by_cluster = match pod_spec.dns_policy.as_deref() {
        Some("None" | "Default") => false,
        Some("ClusterFirstWithHostNet") => true,
        _ => !spec::is_host_network(pod),
    };
    let mut settings = match pod_spec.dns_policy.as_deref() {
        Some("None") => Settings::default(),
        _ if by_cluster && !cluster.servers.is_empty() => {
            let namespace = spec::namespace(pod);
            let domain = &cluster.domain;
            let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            Settings {
                servers: cluster.servers.clone(),
                searches: own.into_iter().chain(host.searches).collect(),
                options: vec!["ndots:5".into()],
            }
        }
        _ => host,
    };
    if let Some(config) = &pod_spec.dns_config {
        settings.servers.extend(config.nameservers.iter().flatten().cloned());
        settings.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            settings
                .options
                .retain(|known| known.split(':').next() != Some(name.as_str()));
            settings
                .options
                .push(match option.value.as_deref().filter(|value| !value.is_empty()) {
                    Some(value) => format!("{name}:{value}"),
                    None => name,
                });
        }
    }
    render(settings)
}

fn render(settings: Settings) -> String {
    let mut servers = unique(settings.servers);
    servers.truncate(3);
    let mut searches = unique(settings.searches);
    searches.truncate(32);
    while searches.iter().map(|search| search.len() + 1).sum::<usize>() > 2049 {
        searches.pop();
    }
    let mut text = String::new();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !settings.options.is_empty() {
        text.push_str(&format!("options {}\n", settings.options.join(" ")));
    }
    text
}

fn unique(texts: Vec<String>) -> Vec<String> {
    let mut result: Vec<String> = Vec::with_capacity(texts.len());
    for text in texts {
        if !result.contains(&text) {
            result.push(text);
        }
    }
    result
}

fn parse(text: &str) -> Settings {
    let mut settings = Settings::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("nameserver") => settings.servers.extend(fields.next().map(str::to_owned)),
            Some("search") => {
                settings.searches = fields
                    .filter(|search| *search != ".")
                    .map(|search| search.trim_end_matches('.').to_owned())
                    .collect();
            }
            Some("options") => settings.options.extend(fields.map(str::to_owned)),
            _ => {}
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies() {
        let cluster = ClusterDns {
            servers: vec!["10.43.0.10".into()],
            domain: "cluster.local".into(),
        };
        let host = "# mine\nnameserver 192.0.2.1\nsearch example.org.\noptions rotate\n";
        let of_host = "search example.org\nnameserver 192.0.2.1\noptions rotate\n";
        let of_cluster =
            "search n.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.43.0.10\noptions ndots:5\n";
        for (spec, expected) in [
            (json!({"dnsPolicy": "ClusterFirst"}), of_cluster),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), of_host),
            (
                json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
                of_cluster,
            ),
            (json!({"dnsPolicy": "Default"}), of_host),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}]}}),
                "search a\nnameserver 1.1.1.1\noptions ndots:2\n",
            ),
        ] {
            let mut value = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
            value["spec"]["containers"] = json!([]);
            let pod: Pod = serde_json::from_value(value).unwrap();
            assert_eq!(content(&pod, &cluster, host), expected);
        }
    }
}
