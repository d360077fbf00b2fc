//! The content of `/etc/hosts` in a pod.

use std::fmt::Write;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::spec;

/// The file for a pod with its own network, or, given the host's file, for one with the host's.
#[must_use]
pub fn content(pod: &Pod, pod_ips: &[String], cluster_domain: &str, host_file: Option<&str>) -> String {
    let aliases = spec::of(pod).host_aliases.as_deref().unwrap_or_default();
    if let Some(host) = host_file.filter(|_| spec::is_host_network(pod)) {
        return format!(
            "# Kubernetes-managed hosts file (host network).\n{host}{}",
            alias_lines(aliases)
        );
    }
    let mut text = String::from("# Kubernetes-managed hosts file.\n");
    for (ip, names) in [
        ("127.0.0.1", "localhost"),
        ("::1", "localhost ip6-localhost ip6-loopback"),
        ("fe00::0", "ip6-localnet"),
        ("fe00::0", "ip6-mcastprefix"),
        ("fe00::1", "ip6-allnodes"),
        ("fe00::2", "ip6-allrouters"),
    ] {
        push(&mut text, ip, names);
    }
    let name = spec::hostname(pod);
    let domain = spec::host_domain(pod, cluster_domain);
    let names = if domain.is_empty() {
        name
    } else {
        format!("{name}.{domain}\t{name}")
    };
    for ip in pod_ips {
        push(&mut text, ip, &names);
    }
    text.push_str(&alias_lines(aliases));
    text
}

fn push(text: &mut String, ip: &str, names: &str) {
    writeln!(text, "{ip}\t{names}").expect("writing to a string does not fail");
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        push(
            &mut text,
            &alias.ip,
            &alias.hostnames.as_deref().unwrap_or_default().join("\t"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn own_network_names_the_pod_and_its_aliases() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "n"},
            "spec": {"containers": [], "hostname": "web-0", "subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}
        }))
        .unwrap();
        let text = content(&pod, &["10.42.0.2".into()], "cluster.local", None);
        assert!(text.contains("10.42.0.2\tweb-0.web.n.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
    }
}
