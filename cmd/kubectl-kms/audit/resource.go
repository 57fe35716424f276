package audit

import (
	"context"
	"encoding/json"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// A resource as an EncryptionConfiguration names it.
type resource struct {
	name, group string
	// unplaced is true where the path has no group and no release that is known has a
	// built-in resource of this name.
	unplaced bool
}

func (r resource) String() string {
	if r.group == "" {
		return r.name
	}
	return r.name + "." + r.group
}

// short leaves the group of Kubernetes' own resources out, as kubectl does.
func (r resource) short() string {
	if group, builtIn := groupOf(r.name); builtIn && group == r.group || r.group == "apiextensions.k8s.io" || r.group == "apiregistration.k8s.io" {
		return r.name
	}
	return r.String()
}

func resourceAt(o stored.Object) resource {
	if o.Group != "" {
		return resource{name: o.Resource, group: o.Group}
	}
	group, known := groupOf(o.Resource)
	return resource{name: o.Resource, group: group, unplaced: !known}
}

// groupOf returns the group of a built-in resource, which its path does not have.
//
// k8s.io/kubernetes 1.37, pkg/registry/*/rest, and what releases since 1.13 had
// besides. Of resources in two groups it is the one whose provider
// kube-apiserver takes (pkg/kubeapiserver/default_storage_factory_builder.go).
func groupOf(name string) (group string, known bool) {
	switch name {
	case "configmaps", "endpoints", "events", "limitranges", "namespaces", "nodes", "persistentvolumeclaims",
		"persistentvolumes", "pods", "podtemplates", "replicationcontrollers", "resourcequotas", "secrets",
		"serviceaccounts", "services":
		return "", true
	case "mutatingadmissionpolicies", "mutatingadmissionpolicybindings", "mutatingwebhookconfigurations",
		"validatingadmissionpolicies", "validatingadmissionpolicybindings", "validatingwebhookconfigurations":
		return "admissionregistration.k8s.io", true
	case "controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets":
		return "apps", true
	case "horizontalpodautoscalers":
		return "autoscaling", true
	case "cronjobs", "jobs":
		return "batch", true
	case "certificatesigningrequests", "clustertrustbundles", "podcertificaterequests":
		return "certificates.k8s.io", true
	case "leases", "leasecandidates":
		return "coordination.k8s.io", true
	case "endpointslices":
		return "discovery.k8s.io", true
	case "flowschemas", "prioritylevelconfigurations":
		return "flowcontrol.apiserver.k8s.io", true
	case "storageversions":
		return "internal.apiserver.k8s.io", true
	case "evictionrequests":
		return "lifecycle.k8s.io", true
	case "ingresses", "ingressclasses", "ipaddresses", "networkpolicies", "servicecidrs":
		return "networking.k8s.io", true
	case "runtimeclasses":
		return "node.k8s.io", true
	case "poddisruptionbudgets", "podsecuritypolicies":
		return "policy", true
	case "clusterroles", "clusterrolebindings", "roles", "rolebindings":
		return "rbac.authorization.k8s.io", true
	case "deviceclasses", "devicetaintrules", "podschedulingcontexts", "resourceclaims", "resourceclaimtemplates",
		"resourceclasses", "resourceclaimparameters", "resourceclassparameters", "resourcepoolstatusrequests", "resourceslices":
		return "resource.k8s.io", true
	case "compositepodgroups", "podgroups", "priorityclasses", "workloads":
		return "scheduling.k8s.io", true
	case "csidrivers", "csinodes", "csistoragecapacities", "storageclasses", "volumeattachments", "volumeattributesclasses":
		return "storage.k8s.io", true
	case "storageversionmigrations":
		return "storagemigration.k8s.io", true
	}
	return "", false
}

// CheckResource returns what is wrong with the name of a resource, and "" where nothing
// is: one of another group than the core one needs it, or it would stand for nothing.
func CheckResource(name string) string {
	if group, known := groupOf(name); known && group != "" {
		return "is of the group " + group + ": write " + name + "." + group
	}
	return ""
}

// aggregatedBy notes the group of an APIService that another server answers for: where
// that one stores, nothing here tells. The groups of metrics are never stored.
// APIServices are JSON in etcd; one that is encrypted tells nothing.
//
// k8s.io/kubernetes pkg/controlplane/apiserver/aggregator.go.
func (r *reading) aggregatedBy(at row, o stored.Object, value []byte) {
	if at.resource != (resource{name: "apiservices", group: "apiregistration.k8s.io"}) {
		return
	}
	_, group, _ := strings.Cut(o.Name, ".")
	if ofMetrics(group) {
		return
	}
	var service struct {
		Spec struct {
			Service *struct{} `json:"service"`
		} `json:"spec"`
	}
	if at.format != stored.Plaintext || json.Unmarshal(value, &service) != nil {
		r.aggregated[""] = true
		return
	}
	if service.Spec.Service != nil && len(r.aggregated) < maxPaths {
		r.aggregated[strings.Clone(group[:min(len(group), maxResource)])] = true
	}
}

func ofMetrics(group string) bool {
	return group == "metrics.k8s.io" || strings.HasSuffix(group, ".metrics.k8s.io")
}

// askAggregated takes an API server's word where etcd's is encrypted. Without an answer it
// stays unknown.
func (o Options) askAggregated(ctx context.Context, groups map[string]bool) {
	found, err := o.Aggregated(ctx)
	if err != nil {
		return
	}
	delete(groups, "")
	for _, group := range found {
		if !ofMetrics(group) && len(groups) < maxPaths {
			groups[group[:min(len(group), maxResource)]] = true
		}
	}
}
