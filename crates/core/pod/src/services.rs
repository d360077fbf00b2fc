//! Environment variables that name services (pkg/kubelet/envvars).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

/// Variables for a pod of `namespace`: `default/kubernetes` always, its own namespace's services if it wants links.
#[must_use]
pub fn variables<'a>(services: impl IntoIterator<Item = &'a Service>, namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let own = service.metadata.namespace.as_deref().unwrap_or_default();
        if own == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert(service);
        } else if own == namespace && links {
            chosen.insert(name, service);
        }
    }
    let mut result = BTreeMap::new();
    for (name, service) in chosen {
        add(&mut result, name, service);
    }
    result
}

fn add(result: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return;
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let prefix = variable_name(name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    result.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (index, port) in ports.iter().enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{number}", protocol.to_lowercase());
        if index == 0 {
            result.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
            result.insert(format!("{prefix}_PORT"), url.clone());
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            result.insert(
                format!("{prefix}_SERVICE_PORT_{}", variable_name(port_name)),
                number.to_string(),
            );
        }
        let link = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        result.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        result.insert(format!("{link}_PORT"), number.to_string());
        result.insert(format!("{link}_ADDR"), ip.to_owned());
        result.insert(link, url);
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn own_namespace_and_the_api() {
        let make = |namespace: &str, name: &str, ip: &str| -> Service {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
            }))
            .unwrap()
        };
        let all = [
            make("default", "kubernetes", "10.43.0.1"),
            make("n", "my-db", "10.43.0.9"),
            make("n", "headless", "None"),
            make("x", "other", "10.43.0.8"),
        ];
        let found = variables(&all, "n", true);
        assert_eq!(found["KUBERNETES_SERVICE_HOST"], "10.43.0.1");
        assert_eq!(found["MY_DB_SERVICE_PORT_HTTP"], "80");
        assert_eq!(found["MY_DB_PORT_80_TCP"], "tcp://10.43.0.9:80");
        assert!(
            !found
                .keys()
                .any(|key| key.starts_with("HEADLESS") || key.starts_with("OTHER"))
        );
        assert!(variables(&all, "n", false).keys().all(|key| key.starts_with("KUBERNETES_")));
    }
}
