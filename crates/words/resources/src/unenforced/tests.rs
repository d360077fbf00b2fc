//! Every field of pods and services has its place, and `docs/STATUS.md` is what the tables say.

use std::collections::BTreeSet;

use serde_json::json;
use trireme_api::schema::{Struct, Type};

use super::fields::{Fate, Field, POD, SERVICE};
use super::*;
use crate::{find, rows};

/// Fields that something acts on, by struct. A struct that is not here is not walked into.
const ENFORCED: &[(&str, &str)] = &[
    (
        "PodSpec",
        "volumes initContainers containers ephemeralContainers restartPolicy terminationGracePeriodSeconds \
         activeDeadlineSeconds dnsPolicy nodeSelector serviceAccountName serviceAccount automountServiceAccountToken nodeName \
         hostNetwork hostPID hostIPC shareProcessNamespace securityContext imagePullSecrets hostname subdomain affinity \
         schedulerName tolerations hostAliases priorityClassName priority dnsConfig readinessGates runtimeClassName \
         enableServiceLinks preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os hostUsers schedulingGates \
         resources hostnameOverride",
    ),
    (
        "Container",
        "name image command args workingDir ports envFrom env resources resizePolicy restartPolicy restartPolicyRules \
         volumeMounts livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath terminationMessagePolicy \
         imagePullPolicy securityContext stdin stdinOnce tty",
    ),
    (
        "EphemeralContainer",
        "name image command args workingDir ports envFrom env resources resizePolicy restartPolicy restartPolicyRules \
         volumeMounts livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath terminationMessagePolicy \
         imagePullPolicy securityContext stdin stdinOnce tty targetContainerName",
    ),
    ("ContainerPort", "name hostPort containerPort protocol hostIP"),
    ("EnvFromSource", "prefix configMapRef secretRef"),
    ("ConfigMapEnvSource", "name optional"),
    ("SecretEnvSource", "name optional"),
    ("EnvVar", "name value valueFrom"),
    ("EnvVarSource", "fieldRef resourceFieldRef configMapKeyRef secretKeyRef"),
    ("ObjectFieldSelector", "apiVersion fieldPath"),
    ("ResourceFieldSelector", "containerName resource divisor"),
    ("ConfigMapKeySelector", "name key optional"),
    ("SecretKeySelector", "name key optional"),
    ("ResourceRequirements", "limits requests"),
    ("ContainerResizePolicy", "resourceName restartPolicy"),
    ("ContainerRestartRule", "action exitCodes"),
    ("ContainerRestartRuleOnExitCodes", "operator values"),
    (
        "VolumeMount",
        "name readOnly recursiveReadOnly mountPath subPath mountPropagation subPathExpr",
    ),
    (
        "Probe",
        "exec httpGet tcpSocket grpc initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold \
         terminationGracePeriodSeconds",
    ),
    ("ExecAction", "command"),
    ("HTTPGetAction", "path port host scheme httpHeaders"),
    ("HTTPHeader", "name value"),
    ("TCPSocketAction", "port host"),
    ("GRPCAction", "port service"),
    ("SleepAction", "seconds"),
    ("Lifecycle", "postStart preStop"),
    ("LifecycleHandler", "exec httpGet tcpSocket sleep"),
    (
        "SecurityContext",
        "capabilities privileged runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem allowPrivilegeEscalation procMount \
         seccompProfile",
    ),
    ("Capabilities", "add drop"),
    ("SeccompProfile", "type"),
    (
        "PodSecurityContext",
        "runAsUser runAsGroup runAsNonRoot supplementalGroups supplementalGroupsPolicy fsGroup sysctls seccompProfile",
    ),
    ("Sysctl", "name value"),
    ("LocalObjectReference", "name"),
    ("Affinity", "nodeAffinity podAffinity podAntiAffinity"),
    (
        "NodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution preferredDuringSchedulingIgnoredDuringExecution",
    ),
    (
        "PodAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution preferredDuringSchedulingIgnoredDuringExecution",
    ),
    (
        "PodAntiAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution preferredDuringSchedulingIgnoredDuringExecution",
    ),
    ("NodeSelector", "nodeSelectorTerms"),
    ("NodeSelectorTerm", "matchExpressions matchFields"),
    ("NodeSelectorRequirement", "key operator values"),
    ("PreferredSchedulingTerm", "weight preference"),
    (
        "PodAffinityTerm",
        "labelSelector namespaces topologyKey namespaceSelector matchLabelKeys mismatchLabelKeys",
    ),
    ("WeightedPodAffinityTerm", "weight podAffinityTerm"),
    ("LabelSelector", "matchLabels matchExpressions"),
    ("LabelSelectorRequirement", "key operator values"),
    ("Toleration", "key operator value effect tolerationSeconds"),
    ("HostAlias", "ip hostnames"),
    ("PodDNSConfig", "nameservers searches options"),
    ("PodDNSConfigOption", "name value"),
    ("PodReadinessGate", "conditionType"),
    (
        "TopologySpreadConstraint",
        "maxSkew topologyKey whenUnsatisfiable labelSelector minDomains nodeAffinityPolicy nodeTaintsPolicy matchLabelKeys",
    ),
    ("PodOS", "name"),
    ("PodSchedulingGate", "name"),
    (
        "Volume",
        "name hostPath emptyDir secret configMap downwardAPI projected image persistentVolumeClaim ephemeral",
    ),
    ("HostPathVolumeSource", "path type"),
    ("PersistentVolumeClaimVolumeSource", "claimName readOnly"),
    ("EphemeralVolumeSource", "volumeClaimTemplate"),
    ("PersistentVolumeClaimTemplate", "metadata spec"),
    // Validation lets labels and annotations through, and nothing else.
    (
        "ObjectMeta",
        "name generateName namespace selfLink uid resourceVersion generation creationTimestamp deletionTimestamp \
         deletionGracePeriodSeconds labels annotations ownerReferences finalizers managedFields",
    ),
    ("OwnerReference", "apiVersion kind name uid controller blockOwnerDeletion"),
    (
        "ManagedFieldsEntry",
        "manager operation apiVersion time fieldsType fieldsV1 subresource",
    ),
    (
        "PersistentVolumeClaimSpec",
        "accessModes selector resources volumeName storageClassName volumeMode volumeAttributesClassName",
    ),
    ("VolumeResourceRequirements", "limits requests"),
    ("EmptyDirVolumeSource", "medium"),
    ("SecretVolumeSource", "secretName items defaultMode optional"),
    ("ConfigMapVolumeSource", "name items defaultMode optional"),
    ("KeyToPath", "key path mode"),
    ("DownwardAPIVolumeSource", "items defaultMode"),
    ("DownwardAPIVolumeFile", "path fieldRef resourceFieldRef mode"),
    ("ProjectedVolumeSource", "sources defaultMode"),
    ("VolumeProjection", "secret downwardAPI configMap serviceAccountToken"),
    ("SecretProjection", "name items optional"),
    ("ConfigMapProjection", "name items optional"),
    ("DownwardAPIProjection", "items"),
    ("ServiceAccountTokenProjection", "audience expirationSeconds path"),
    ("ImageVolumeSource", "reference pullPolicy"),
    (
        "ServiceSpec",
        "ports selector clusterIP clusterIPs type externalIPs sessionAffinity loadBalancerIP loadBalancerSourceRanges \
         externalName externalTrafficPolicy healthCheckNodePort publishNotReadyAddresses sessionAffinityConfig ipFamilies \
         ipFamilyPolicy allocateLoadBalancerNodePorts loadBalancerClass internalTrafficPolicy",
    ),
    ("ServicePort", "name protocol appProtocol port targetPort nodePort"),
    ("SessionAffinityConfig", "clientIP"),
    ("ClientIPConfig", "timeoutSeconds"),
];

fn inner(ty: &Type) -> &Type {
    match ty {
        Type::List(inner) | Type::Map(inner) => self::inner(inner),
        other => other,
    }
}

/// Walks the fields below a path; what is in neither table, or in both, is told, and what the second was asked is noted.
fn walk(of: &'static Struct, path: &str, fields: &[Field], seen: &mut BTreeSet<String>, wrong: &mut Vec<String>) {
    let enforced = ENFORCED.iter().find(|(name, _)| *name == of.name);
    let enforced: Vec<&str> = enforced.map_or_else(Vec::new, |(_, names)| names.split_whitespace().collect());
    for name in &enforced {
        if of.field(name).is_none() {
            wrong.push(format!("{} has no {name}", of.name));
        }
    }
    for field in of.fields {
        let list = if matches!(field.ty, Type::List(_)) { "[]" } else { "" };
        let name = match field.json {
            "initContainers" | "ephemeralContainers" => "containers",
            other => other,
        };
        let bare = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        };
        let known = fields.iter().any(|field| field.path == bare);
        if known == enforced.contains(&field.json) {
            wrong.push(format!(
                "{}.{} ({bare}) is in {}",
                of.name,
                field.json,
                if known { "both" } else { "neither" }
            ));
        }
        seen.insert(bare.clone());
        if !known && let Type::Struct(next) = inner(&field.ty) {
            walk(next.get(), &format!("{bare}{list}"), fields, seen, wrong);
        }
    }
}

#[test]
fn every_field_of_pods_and_services_is_enforced_ignored_or_refused() {
    for (kind, fields) in [("Pod", POD), ("Service", SERVICE)] {
        let spec = crate::find_kind("", "v1", kind).unwrap().schema().field("spec").unwrap();
        let Type::Struct(spec) = spec.ty else {
            panic!("a spec is a struct")
        };
        let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
        walk(spec.get(), "", fields, &mut seen, &mut wrong);
        for field in fields {
            let bare = field.path.split('{').next().unwrap_or_default();
            if !seen.contains(bare) {
                wrong.push(format!("{kind} has no {}", field.path));
            }
        }
        assert!(wrong.is_empty(), "{kind}: {wrong:#?}");
    }
}

/// What `docs/STATUS.md` says between its marks.
fn listed() -> String {
    let mut out = String::from("| kind | what does not happen |\n| --- | --- |\n");
    let mut kinds: Vec<_> = rows()
        .iter()
        .filter_map(|row| Some((row, row.unenforced.as_ref()?)))
        .collect();
    kinds.sort_by_key(|(row, _)| row.kind);
    for (row, unenforced) in kinds {
        let with = match unenforced.with {
            [] => String::new(),
            path => format!(" with `{}`", path.join(".")),
        };
        out += &format!("| {}{with} | {} |\n", row.kind, unenforced.text);
    }
    for (kind, fields) in [("Pod", POD), ("Service", SERVICE)] {
        for (title, wanted) in [("is accepted and does nothing", true), ("is not served", false)] {
            let chosen = fields.iter().filter(|field| matches!(field.fate, Fate::Ignored(_)) == wanted);
            let lines: String = chosen
                .map(|field| format!("| `spec.{}` | {} |\n", field.path, field.text))
                .collect();
            if !lines.is_empty() {
                out += &format!("\n| field of {kind} that {title} | instead |\n| --- | --- |\n{lines}");
            }
        }
    }
    out
}

#[test]
fn the_status_page_lists_all_of_it() {
    let page = include_str!("../../../../../docs/STATUS.md");
    let (_, rest) = page.split_once("<!-- listed -->\n").expect("the first mark");
    let (told, _) = rest.split_once("<!-- end -->").expect("the last mark");
    assert_eq!(
        told,
        listed(),
        "docs/STATUS.md should have this between its marks:\n{}",
        listed()
    );
}

#[test]
fn kinds_that_do_nothing_say_so() {
    let class = find("networking.k8s.io", "v1", "ingressclasses").unwrap();
    let told = "IngressClass is stored but not acted on yet: no controller serves it";
    assert_eq!(warnings(class, &json!({}), None, None), [told]);
    assert!(warnings(class, &json!({}), None, Some("status")).is_empty());
    let service = find("apiregistration.k8s.io", "v1", "apiservices").unwrap();
    assert!(warnings(service, &json!({"spec": {"group": ""}}), None, None).is_empty());
    assert_eq!(
        warnings(service, &json!({"spec": {"service": {"name": "a"}}}), None, None).len(),
        1
    );
    for (group, plural) in [("", "configmaps"), ("networking.k8s.io", "networkpolicies")] {
        let row = find(group, "v1", plural).unwrap();
        assert!(warnings(row, &json!({}), None, None).is_empty());
    }
}

#[test]
fn limits_that_do_not_hold_are_told_with_their_path() {
    let spec = json!({
        "containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "ephemeral-storage": "1Gi"}}}],
        "initContainers": [{"name": "b", "securityContext": {"seLinuxOptions": {"level": "s0"}}}],
        "volumes": [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "d", "emptyDir": {"sizeLimit": "1Mi"}}],
        "securityContext": {"fsGroupChangePolicy": "Always"},
    });
    let pod = find("", "v1", "pods").unwrap();
    let told = [
        "initContainers[0].securityContext.seLinuxOptions: accepted but not enforced yet: no label is set",
        "containers[0].resources.limits[ephemeral-storage]: accepted but not enforced yet: the container may use more",
        "volumes[1].emptyDir.sizeLimit: accepted but not enforced yet: a volume on disk may grow beyond it",
    ];
    let value = json!({"spec": spec});
    assert_eq!(warnings(pod, &value, None, None), told.map(|text| format!("spec.{text}")));
    assert!(warnings(pod, &value, Some(&value), None).is_empty());
    let deployment = find("apps", "v1", "deployments").unwrap();
    let value = json!({"spec": {"template": {"spec": spec}}});
    assert_eq!(
        warnings(deployment, &value, None, None),
        told.map(|text| format!("spec.template.spec.{text}"))
    );
}
