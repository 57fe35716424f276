package stored

import (
	"slices"
	"strings"
)

// An Object is what a key of etcd names.
type Object struct {
	Group     string // of custom resources and aggregated ones; built-in resources have none in their path
	Resource  string // the plural, in lower case, such as "secrets"
	Namespace string // empty where the resource has none
	Name      string
}

// String returns GROUP/RESOURCE NAMESPACE/NAME, as far as there is of each.
func (o Object) String() string {
	var b strings.Builder
	if o.Group != "" {
		b.WriteString(o.Group + "/")
	}
	b.WriteString(o.Resource + " ")
	if o.Namespace != "" {
		b.WriteString(o.Namespace + "/")
	}
	b.WriteString(o.Name)
	return b.String()
}

// ObjectAt returns what a key of etcd names, below the prefix of an API server
// (--etcd-prefix, such as /registry). ok is false for keys of another prefix, for
// what is not an object, such as allocations of addresses, and for paths of a shape
// that kube-apiserver does not write.
func ObjectAt(prefix, key string) (o Object, ok bool) {
	root := "/"
	if p := strings.Trim(prefix, "/"); p != "" {
		root += p + "/"
	}
	rest, under := strings.CutPrefix(key, root)
	if !under {
		return Object{}, false
	}
	parts := strings.Split(rest, "/")
	if besideObjects(parts[0]) || slices.Contains(parts, "") {
		return Object{}, false
	}
	o.Resource, parts = cutResource(parts)
	if o.Resource == "" && strings.Contains(parts[0], ".") {
		o.Group, parts = parts[0], parts[1:]
	}
	if o.Resource == "" && len(parts) > 0 {
		o.Resource, parts = parts[0], parts[1:]
	}
	switch len(parts) {
	case 1:
		o.Name = parts[0]
	case 2:
		o.Namespace, o.Name = parts[0], parts[1]
	default:
		return Object{}, false
	}
	return o, true
}

// besideObjects reports whether an API server keeps it beside the objects: no
// EncryptionConfiguration touches it.
func besideObjects(first string) bool {
	return first == "ranges" || first == "masterleases" || first == "peerserverleases"
}

// cutResource knows the built-in resources that lie elsewhere than under their own name.
//
// k8s.io/kubernetes/pkg/kubeapiserver/default_storage_factory_builder.go,
// specialDefaultResourcePrefixes.
func cutResource(parts []string) (resource string, rest []string) {
	for _, odd := range []struct {
		path     []string
		resource string
	}{
		{[]string{"services", "specs"}, "services"},
		{[]string{"services", "endpoints"}, "endpoints"},
		{[]string{"controllers"}, "replicationcontrollers"},
		{[]string{"minions"}, "nodes"},
		{[]string{"ingress"}, "ingresses"},
	} {
		if n := len(odd.path); len(parts) > n && slices.Equal(parts[:n], odd.path) {
			return odd.resource, parts[n:]
		}
	}
	return "", parts
}
