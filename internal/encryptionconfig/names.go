package encryptionconfig

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var resourceForm = regexp.MustCompile(`^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)(\.|\.\*|(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+)?$`)

// builtIn are the resources of Kubernetes, by their groups. Those of the core group
// are all there are; of others people name few.
//
// https://kubernetes.io/docs/reference/kubernetes-api/
func builtIn() map[string][]string {
	return map[string][]string{
		"": {
			"secrets", "bindings", "componentstatuses", "configmaps", "endpoints", "events", "limitranges", "namespaces", "nodes", "persistentvolumeclaims",
			"persistentvolumes", "pods", "podtemplates", "replicationcontrollers", "resourcequotas", "serviceaccounts", "services",
		},
		"apps":                      {"controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"},
		"batch":                     {"cronjobs", "jobs"},
		"autoscaling":               {"horizontalpodautoscalers"},
		"networking.k8s.io":         {"ingresses", "ingressclasses", "networkpolicies"},
		"policy":                    {"poddisruptionbudgets"},
		"rbac.authorization.k8s.io": {"clusterroles", "clusterrolebindings", "roles", "rolebindings"},
		"storage.k8s.io":            {"csidrivers", "csinodes", "storageclasses", "volumeattachments"},
		"coordination.k8s.io":       {"leases"},
		"discovery.k8s.io":          {"endpointslices"},
		"certificates.k8s.io":       {"certificatesigningrequests"},
		"apiextensions.k8s.io":      {"customresourcedefinitions"},
	}
}

// wellFormed reports whether a resource can have such a name. kube-apiserver takes
// others too, for nothing.
func wellFormed(name string) bool {
	return resourceForm.MatchString(name)
}

// meantName is the resource that a text which is none was probably meant as, and ""
// where that cannot be told: another spelling, quotes or blanks around it, or a
// version or group where it has none.
func meantName(text string) string {
	name := strings.ToLower(plainly(text))
	several := strings.FieldsFunc(name, func(r rune) bool { return invisible(r) && r != '/' })
	for _, one := range several {
		for _, part := range slices.Backward(strings.Split(one, "/")) { // v1/secrets, apps/v1/deployments
			if found := builtInLike(part); found != "" {
				return found
			}
		}
	}
	return ""
}

// builtInLike is the built-in resource, with its group, that a name was meant as.
// Groups with a dot are other people's, whatever their resources are called.
func builtInLike(name string) string {
	r := resourceOf(name)
	if strings.Contains(r.group, ".") && !strings.HasSuffix(r.group, ".k8s.io") {
		return ""
	}
	for _, group := range []string{"", "apps", "batch", "autoscaling", "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "certificates.k8s.io", "apiextensions.k8s.io"} {
		if found := nearest(r.name, builtIn()[group]); found != "" {
			return strings.TrimSuffix(found+"."+group, ".")
		}
	}
	return ""
}

// orMeant suggests a resource, where one is near.
func orMeant(text string) string {
	if name := meantName(text); name != "" {
		return "; did you mean " + name + "?"
	}
	return ""
}

// idleNames are the resources that there cannot be, beside those of a path that has
// been told already: kube-apiserver takes them, and they encrypt nothing.
func (c *Configuration) idleNames(told string) Mistakes {
	var m Mistakes
	for i, r := range c.Resources {
		for j, name := range r.Resources {
			path := element(below(element("resources", i), "resources"), j)
			if wrong := idle(name); wrong != "" && path != told {
				m.add(Unread, path, "%s", wrong)
			}
		}
	}
	return m
}

func idle(name string) string {
	like := meantName(name)
	suggestion := ""
	if like != "" && like != name {
		suggestion = ": did you mean " + like + "?"
	}
	switch {
	case unfilled(name) != "":
		return unfilled(name)
	case !wellFormed(name):
		return fmt.Sprintf("%s is the name of no resource, so nothing is encrypted by it%s", Quote(name), suggestion)
	case suggestion != "" && !strings.Contains(name, ".") && !strings.Contains(name, "*"):
		return fmt.Sprintf("%s is no resource of the core group, so nothing is encrypted by it%s", Quote(name), suggestion)
	}
	return ""
}
