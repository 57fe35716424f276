package generate

import (
	"fmt"
	"math"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// What the program is given. It idles with 20 MB and has 34 MB after a load of
// 128 callers, by the bench table; twenty providers have 39 MB. It sets itself a
// soft limit of 64 MiB. A processor's thousandth is what it takes when idle. It
// has no limit of its processor: a throttled plugin is one that fails calls.
const (
	requestedCPU    = "10m"
	requestedMemory = "40Mi"
	memoryLimit     = "128Mi"
)

// defaultHealth is the address that stands where nobody chose one. On the host's
// network it would show metrics to everyone and take the port of others.
const (
	defaultHealth = ":8080"
	hostHealth    = "127.0.0.1:8083"
)

func (o *Options) staticPod() ([]File, error) {
	return []File{{Name: "aws-encryption-provider.yaml", Text: document(fmt.Sprintf(`Static pod. It goes into the kubelet's manifest directory on every control plane
node, owner root, mode 0600, before kube-apiserver needs it:

  kubeadm, Cluster API, kubespray, kOps  /etc/kubernetes/manifests
  RKE2                                   /var/lib/rancher/rke2/agent/pod-manifests
  k3s                                    /var/lib/rancher/k3s/agent/pod-manifests; see docs/k3s.md first

Check:
- the image is there: a node that cannot pull it has no API server
- credentials: a static pod can use no ServiceAccount, Secret or ConfigMap
%s`, o.podChecks()), o.pod())}}, nil
}

func (o *Options) podChecks() string {
	var b strings.Builder
	if o.File != nil {
		fmt.Fprintf(&b, "- %s is on the node, and readable for the pod's user\n", o.FileAt)
	}
	if o.RunAsUser != 0 {
		for _, dir := range o.socketDirs() {
			fmt.Fprintf(&b, "- %s exists at each boot and belongs to user %d (docs/image.md: tmpfiles.d)\n", dir, o.RunAsUser)
		}
	}
	fmt.Fprintf(&b, "- %s is free on the node: health paths and metrics\n", o.healthAddress(true))
	return b.String()
}

func (o *Options) pod() *yaml.Node {
	volumes, mounts := o.hostVolumes()
	return object(
		"apiVersion", "v1",
		"kind", "Pod",
		"metadata", object(
			"name", "aws-encryption-provider",
			"namespace", "kube-system",
			"labels", object("app.kubernetes.io/name", "aws-encryption-provider", "tier", "control-plane"),
		),
		"spec", object(
			noted{"hostNetwork", "No network plugin is there yet, and credentials of the instance are one hop away."}, true,
			"priorityClassName", "system-node-critical",
			"automountServiceAccountToken", false,
			"terminationGracePeriodSeconds", o.stopSeconds(podStop),
			"securityContext", object(
				"seccompProfile", object("type", "RuntimeDefault"),
				"supplementalGroups", o.groups(),
			),
			"containers", []*yaml.Node{o.container(true, mounts)},
			"volumes", volumes,
		),
	)
}

// What a pod and the unit have to end by themselves.
const (
	podStop  = 30 * time.Second
	unitStop = 40 * time.Second
)

// stopSeconds are what the program needs to end, where usual is too short: it goes
// on for --shutdown-delay and then has six seconds.
func (o *Options) stopSeconds(usual time.Duration) any {
	const end, slack = 6 * time.Second, 4 * time.Second
	if o.Config.ShutdownDelay+end <= usual {
		return nil
	}
	return int(math.Ceil((o.Config.ShutdownDelay + end + slack).Seconds()))
}

// groups let the program give its sockets a group without being allowed to give
// anything to anyone.
func (o *Options) groups() any {
	if o.Config.Socket.Group < 0 {
		return nil
	}
	return []int{o.Config.Socket.Group}
}

// container is the program's. On a host it is probed at the host's own address.
func (o *Options) container(host bool, mounts []*yaml.Node) *yaml.Node {
	pairs := []any{"name", "aws-encryption-provider", "image", o.Image, "imagePullPolicy", "IfNotPresent"}
	if host {
		pairs = append(pairs, "command", append([]string{"/aws-encryption-provider"}, o.argsAt(host)...))
	} else {
		pairs = append(pairs, "args", o.argsAt(host), noted{"restartPolicy", sidecarNote}, "Always",
			noted{"startupProbe", "kube-apiserver starts after this. It does not ask KMS: an outage must not keep the API server down."},
			o.probe(host, o.Config.Health.LivezPath, "periodSeconds", 1, "failureThreshold", 60))
	}
	// Beside an API server, readiness would be that of the whole pod: an outage of
	// KMS would take away an API server that serves everything else.
	var ready any
	if host {
		ready = o.probe(host, "/readyz", "periodSeconds", 10, "timeoutSeconds", 5)
	}
	pairs = append(pairs,
		"env", o.environment(),
		noted{"livenessProbe", "Never asks KMS: trouble there restarts nothing."}, o.probe(host, o.Config.Health.LivezPath, "periodSeconds", 10, "failureThreshold", 3, "timeoutSeconds", 5),
		noted{"readinessProbe", "Says in READY whether it can encrypt. Takes nothing away."}, ready,
		"resources", object(
			"requests", object("cpu", requestedCPU, "memory", requestedMemory),
			"limits", object("memory", memoryLimit),
		),
		"securityContext", o.securityContext(),
		"volumeMounts", mounts,
	)
	return object(pairs...)
}

const sidecarNote = `A sidecar, as Kubernetes 1.29 and later have it by default (1.33: stable). In older
ones move this container to containers, without restartPolicy and startupProbe.`

func (o *Options) securityContext() *yaml.Node {
	user := object(
		"allowPrivilegeEscalation", false,
		"readOnlyRootFilesystem", true,
		"capabilities", object("drop", []string{"ALL"}),
	)
	if o.RunAsUser != 0 {
		user.Content = append(object("runAsNonRoot", true, "runAsUser", o.RunAsUser, "runAsGroup", o.RunAsUser).Content, user.Content...)
	}
	return user
}

// argsAt say too where health is, unless they did.
func (o *Options) argsAt(host bool) []string {
	args := o.args()
	if address := o.healthAddress(host); address != o.Config.Health.Address {
		args = append(args, "--health-port="+address)
	}
	return args
}

// Health is where a program on the node's own network has its health port: at the
// loopback address. It is "" for kinds that start none there.
func (k Kind) Health() string {
	if !k.starts || k.effect == hides {
		return ""
	}
	return hostHealth
}

func (o *Options) healthAddress(host bool) string {
	if address := o.Config.Health.Address; !host || address != defaultHealth || o.given("health-port") {
		return address
	}
	return hostHealth
}

// probe asks where the program listens: at the loopback address only the host's
// own network can.
func (o *Options) probe(host bool, at string, more ...any) *yaml.Node {
	ip, portText, _ := net.SplitHostPort(o.healthAddress(host)) // looked at by config
	port, _ := strconv.Atoi(portText)
	var from any
	if host && ip != "" {
		from = ip
	}
	get := object("host", from, "path", at, "port", port)
	return object(append([]any{"httpGet", get}, more...)...)
}

func (o *Options) environment() []*yaml.Node {
	var all []*yaml.Node
	for _, env := range o.Env {
		name, value, _ := strings.Cut(env, "=")
		all = append(all, object("name", name, "value", value))
	}
	return all
}

// A mount is a directory of the host, or a file of it.
type mount struct {
	name, path string
	write      bool
	kind       string // of the hostPath
}

// mounts are what the program needs of its host: the sockets' directories, that
// of its file, and those of the files that its environment names. Directories
// are mounted and not files: one that is replaced would stay the old one.
func (o *Options) mounts() []mount {
	var all []mount
	add := func(name, at string, write bool, kind string) {
		if !slices.ContainsFunc(all, func(m mount) bool { return m.path == at }) {
			all = append(all, mount{numbered(name, 1+countNamed(all, name)), at, write, kind})
		}
	}
	kind := "DirectoryOrCreate"
	if o.RunAsUser != 0 {
		kind = "Directory" // the kubelet would make one of root's
	}
	for _, dir := range o.socketDirs() {
		add("socket", dir, true, kind)
	}
	if o.File != nil {
		add("config", path.Dir(o.FileAt), false, "Directory")
	}
	for _, env := range o.Env {
		for _, f := range envFiles(env) {
			add("aws", f.dir, false, "Directory")
		}
	}
	for _, at := range o.Mounts {
		add("mount", at, false, "")
	}
	return all
}

func countNamed(all []mount, name string) int {
	n := 0
	for _, m := range all {
		if strings.HasPrefix(m.name, name) {
			n++
		}
	}
	return n
}

func (o *Options) hostVolumes() (volumes, mounts []*yaml.Node) {
	for _, m := range o.mounts() {
		var kind, readOnly any
		if m.kind != "" {
			kind = m.kind
		}
		if !m.write {
			readOnly = true
		}
		volumes = append(volumes, object("name", m.name, "hostPath", object("path", m.path, "type", kind)))
		mounts = append(mounts, object("name", m.name, "mountPath", m.path, "readOnly", readOnly))
	}
	return volumes, mounts
}

// sidecar is a patch of the Deployment of a hosted kube-apiserver.
func (o *Options) sidecar() ([]File, error) {
	dirs := o.socketDirs()
	var volumes, ours, theirs []*yaml.Node
	for i, dir := range dirs {
		name := numbered("kms-socket", i+1)
		volumes = append(volumes, object("name", name, "emptyDir", object("medium", "Memory", "sizeLimit", "1Mi")))
		ours = append(ours, object("name", name, "mountPath", dir))
		theirs = append(theirs, object("name", name, "mountPath", dir, "readOnly", true))
	}
	if o.File != nil {
		volumes = append(volumes, object("name", "config", "configMap", object("name", configMapName)))
		ours = append(ours, object("name", "config", "mountPath", path.Dir(o.FileAt), "readOnly", true))
	}
	volumes = append(volumes, object("name", "encryption-config", "secret", object("secretName", "encryption-config")))
	theirs = append(theirs, object("name", "encryption-config", "mountPath", path.Dir(o.PathAt), "readOnly", true))
	all := []File{{Name: "hosted-control-plane-sidecar.yaml", Text: document(`Sidecar of a hosted control plane: a patch of the Deployment in whose pods
kube-apiserver runs, for whatever makes that Deployment. See docs/hosted.md.

Check:
- the pod's ServiceAccount may use the key (IRSA or EKS Pod Identity of the
  management cluster): credentials come to this container, not to kube-apiserver
- a container of kube-apiserver that runs as another user than this one needs
  --socket-mode=0660 and --socket-group, and fsGroup of that group
- one Secret has the EncryptionConfiguration, under the key `+path.Base(o.PathAt)+`
- kube-apiserver has --encryption-provider-config=`+o.PathAt+`
`, object(
		"apiVersion", "apps/v1",
		"kind", "Deployment",
		"metadata", object("name", "kube-apiserver"),
		"spec", object("template", object("spec", object(
			"securityContext", object("seccompProfile", object("type", "RuntimeDefault"), "fsGroup", o.fsGroup()),
			"initContainers", []*yaml.Node{o.container(false, ours)},
			"containers", []*yaml.Node{object("name", "kube-apiserver", "volumeMounts", theirs)},
			"volumes", volumes,
		))),
	))}}
	if o.File != nil {
		all = append([]File{o.configMap()}, all...)
	}
	return all, nil
}

const configMapName = "aws-encryption-provider"

// configMap has the program's file for the sidecar, which mounts all of it: a
// subPath would never change.
//
// https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically
func (o *Options) configMap() File {
	return File{Name: "hosted-control-plane-configmap.yaml", Text: document(`ConfigMap of the sidecar: the program's configuration, in the namespace of the
hosted control plane. See docs/hosted.md.

A change of it reaches every pod within about two minutes, and is taken over without
a restart.
`, object(
		"apiVersion", "v1",
		"kind", "ConfigMap",
		"metadata", object("name", configMapName),
		"data", object(path.Base(o.FileAt), string(o.File)),
	))}
}

func (o *Options) fsGroup() any {
	switch {
	case o.Config.Socket.Group >= 0:
		return o.Config.Socket.Group
	case o.RunAsUser != 0:
		return o.RunAsUser
	}
	return nil
}
