//! The order and the names that fields have inside upstream's server, where the API has others.
//!
//! Invariant: only what differs stands here.

/// Structs whose fields stand in another order inside the server, or under another name: `json` or `Go=json`, in order.
/// A name after `^` is taken from the struct around it.
pub(super) const ORDERS: &[(&str, &[&str])] = &[
    ("CSIDriverSpec", &["attachRequired", "FSGroupPolicy=fsGroupPolicy", "podInfoOnMount", "volumeLifecycleModes", "storageCapacity", "tokenRequests", "requiresRepublish", "SELinuxMount=seLinuxMount", "nodeAllocatableUpdatePeriodSeconds", "serviceAccountTokenInSecrets", "preventPodSchedulingIfMissing"]),
    ("DeviceAttribute", &["IntValue=int", "BoolValue=bool", "StringValue=string", "VersionValue=version", "IntValues=ints", "BoolValues=bools", "StringValues=strings", "VersionValues=versions"]),
    ("DeviceSelector", &["CEL=cel"]),
    ("GlusterfsPersistentVolumeSource", &["EndpointsName=endpoints", "path", "readOnly", "endpointsNamespace"]),
    ("GlusterfsVolumeSource", &["EndpointsName=endpoints", "path", "readOnly"]),
    ("IPBlock", &["CIDR=cidr", "except"]),
    ("JobSpec", &["parallelism", "completions", "podFailurePolicy", "successPolicy", "activeDeadlineSeconds", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes", "selector", "manualSelector", "template", "TTLSecondsAfterFinished=ttlSecondsAfterFinished", "completionMode", "suspend", "podReplacementPolicy", "managedBy"]),
    ("LoadBalancerIngress", &["ip", "hostname", "IPMode=ipMode", "ports"]),
    ("NetworkPolicyPeer", &["podSelector", "namespaceSelector", "IPBlock=ipBlock"]),
    ("PersistentVolumeSource", &["gcePersistentDisk", "awsElasticBlockStore", "hostPath", "glusterfs", "nfs", "rbd", "quobyte", "iscsi", "flexVolume", "cinder", "cephfs", "fc", "flocker", "azureFile", "vsphereVolume", "azureDisk", "photonPersistentDisk", "portworxVolume", "scaleIO", "local", "storageos", "csi"]),
    ("PersistentVolumeSpec", &["capacity", "gcePersistentDisk", "awsElasticBlockStore", "hostPath", "glusterfs", "nfs", "rbd", "quobyte", "iscsi", "flexVolume", "cinder", "cephfs", "fc", "flocker", "azureFile", "vsphereVolume", "azureDisk", "photonPersistentDisk", "portworxVolume", "scaleIO", "local", "storageos", "csi", "accessModes", "claimRef", "persistentVolumeReclaimPolicy", "storageClassName", "mountOptions", "volumeMode", "nodeAffinity", "volumeAttributesClassName"]),
    ("PodSecurityContext", &["HostNetwork=^hostNetwork", "HostPID=^hostPID", "HostIPC=^hostIPC", "ShareProcessNamespace=^shareProcessNamespace", "HostUsers=^hostUsers", "seLinuxOptions", "windowsOptions", "runAsUser", "runAsGroup", "runAsNonRoot", "supplementalGroups", "supplementalGroupsPolicy", "fsGroup", "fsGroupChangePolicy", "sysctls", "seccompProfile", "appArmorProfile", "seLinuxChangePolicy"]),
    ("PodSpec", &["volumes", "initContainers", "containers", "ephemeralContainers", "restartPolicy", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "dnsPolicy", "nodeSelector", "serviceAccountName", "automountServiceAccountToken", "nodeName", "securityContext", "imagePullSecrets", "hostname", "subdomain", "setHostnameAsFQDN", "affinity", "schedulerName", "tolerations", "hostAliases", "priorityClassName", "priority", "preemptionPolicy", "dnsConfig", "readinessGates", "runtimeClassName", "overhead", "enableServiceLinks", "topologySpreadConstraints", "os", "schedulingGates", "resourceClaims", "resources", "hostnameOverride", "schedulingGroup"]),
    ("RBDPersistentVolumeSource", &["CephMonitors=monitors", "RBDImage=image", "fsType", "RBDPool=pool", "RadosUser=user", "keyring", "secretRef", "readOnly"]),
    ("RBDVolumeSource", &["CephMonitors=monitors", "RBDImage=image", "fsType", "RBDPool=pool", "RadosUser=user", "keyring", "secretRef", "readOnly"]),
    ("ScaleIOPersistentVolumeSource", &["gateway", "system", "secretRef", "SSLEnabled=sslEnabled", "protectionDomain", "storagePool", "storageMode", "volumeName", "fsType", "readOnly"]),
    ("ScaleIOVolumeSource", &["gateway", "system", "secretRef", "SSLEnabled=sslEnabled", "protectionDomain", "storagePool", "storageMode", "volumeName", "fsType", "readOnly"]),
    ("ServiceSpec", &["type", "ports", "selector", "clusterIP", "clusterIPs", "IPFamilies=ipFamilies", "IPFamilyPolicy=ipFamilyPolicy", "externalName", "externalIPs", "loadBalancerIP", "sessionAffinity", "sessionAffinityConfig", "loadBalancerSourceRanges", "externalTrafficPolicy", "healthCheckNodePort", "publishNotReadyAddresses", "allocateLoadBalancerNodePorts", "loadBalancerClass", "internalTrafficPolicy", "trafficDistribution"]),
    ("Volume", &["name", "hostPath", "emptyDir", "gcePersistentDisk", "awsElasticBlockStore", "gitRepo", "secret", "nfs", "iscsi", "glusterfs", "persistentVolumeClaim", "rbd", "quobyte", "flexVolume", "cinder", "cephfs", "flocker", "downwardAPI", "fc", "azureFile", "configMap", "vsphereVolume", "azureDisk", "photonPersistentDisk", "projected", "portworxVolume", "scaleIO", "storageos", "csi", "ephemeral", "image"]),
    ("VolumeSource", &["hostPath", "emptyDir", "gcePersistentDisk", "awsElasticBlockStore", "gitRepo", "secret", "nfs", "iscsi", "glusterfs", "persistentVolumeClaim", "rbd", "quobyte", "flexVolume", "cinder", "cephfs", "flocker", "downwardAPI", "fc", "azureFile", "configMap", "vsphereVolume", "azureDisk", "photonPersistentDisk", "projected", "portworxVolume", "scaleIO", "storageos", "csi", "ephemeral", "image"]),
];
