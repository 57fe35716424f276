package stored_test

import (
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

func TestObjectAt(t *testing.T) {
	t.Parallel()
	type object = stored.Object
	for name, c := range map[string]struct {
		prefix, key string
		want        object // zero: no object
	}{
		"in a namespace":         {"/registry", "/registry/secrets/default/a", object{Resource: "secrets", Namespace: "default", Name: "a"}},
		"of the cluster":         {"/registry", "/registry/namespaces/default", object{Resource: "namespaces", Name: "default"}},
		"custom, of a namespace": {"/registry", "/registry/example.com/demos/default/a", object{"example.com", "demos", "default", "a"}},
		"custom, of the cluster": {"/registry", "/registry/example.com/demos/a", object{Group: "example.com", Resource: "demos", Name: "a"}},
		"definition":             {"/registry", "/registry/apiextensions.k8s.io/customresourcedefinitions/demos.example.com", object{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Name: "demos.example.com"}},
		"service":                {"/registry", "/registry/services/specs/default/kubernetes", object{Resource: "services", Namespace: "default", Name: "kubernetes"}},
		"endpoints":              {"/registry", "/registry/services/endpoints/default/kubernetes", object{Resource: "endpoints", Namespace: "default", Name: "kubernetes"}},
		"node":                   {"/registry", "/registry/minions/node-1", object{Resource: "nodes", Name: "node-1"}},
		"controller":             {"/registry", "/registry/controllers/default/a", object{Resource: "replicationcontrollers", Namespace: "default", Name: "a"}},
		"ingress":                {"/registry", "/registry/ingress/default/a", object{Resource: "ingresses", Namespace: "default", Name: "a"}},
		"role with colons":       {"/registry", "/registry/clusterroles/system:node", object{Resource: "clusterroles", Name: "system:node"}},
		"name with a dot":        {"/registry", "/registry/configmaps/kube-system/a.b", object{Resource: "configmaps", Namespace: "kube-system", Name: "a.b"}},
		"another prefix":         {"kubernetes.io", "/kubernetes.io/secrets/default/a", object{Resource: "secrets", Namespace: "default", Name: "a"}},
		"a prefix of two":        {"/a/b/", "/a/b/secrets/default/a", object{Resource: "secrets", Namespace: "default", Name: "a"}},
		"no prefix":              {"/", "/secrets/default/a", object{Resource: "secrets", Namespace: "default", Name: "a"}},
		"not below the prefix":   {"/registry", "/registry2/secrets/default/a", object{}},
		"the prefix":             {"/registry", "/registry/", object{}},
		"a resource alone":       {"/registry", "/registry/secrets", object{}},
		"too deep":               {"/registry", "/registry/secrets/default/a/b", object{}},
		"an empty part":          {"/registry", "/registry/secrets//a", object{}},
		"allocated addresses":    {"/registry", "/registry/ranges/serviceips", object{}},
		"an API server's lease":  {"/registry", "/registry/masterleases/10.0.0.1", object{}},
		"a peer's lease":         {"/registry", "/registry/peerserverleases/10.0.0.1", object{}},
		"the compacted revision": {"/registry", "compact_rev_key", object{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := stored.ObjectAt(c.prefix, c.key)
			if got != c.want || ok != (c.want != object{}) {
				t.Errorf("ObjectAt(%q, %q) = %+v, %t; want %+v", c.prefix, c.key, got, ok, c.want)
			}
		})
	}
}

func TestObjectsString(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]stored.Object{
		"secrets default/a":           {Resource: "secrets", Namespace: "default", Name: "a"},
		"nodes n":                     {Resource: "nodes", Name: "n"},
		"example.com/demos default/a": {Group: "example.com", Resource: "demos", Namespace: "default", Name: "a"},
	} {
		if got := o.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
