# The program as a static pod, under a real kubelet and two containerds: Debian's, and
# the one of test/machine/containerd. guest.sh reads this file and calls pods.

export CONTAINER_RUNTIME_ENDPOINT=unix:///run/containerd/containerd.sock
manifests=/etc/kubernetes/manifests
bridge=10.88.0.1 # the pods' way to the emulator, where they have a network of their own
key=arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab

# The package is gone by now: the emulator is the same program.
serves() { kms-emulator status --listen="$1" --timeout=30s; }
containers() { crictl ps --quiet --name=$unit "$@" | head -n1; }
kubelet_says() { busybox wget -qO- http://127.0.0.1:10255/pods | grep -F -- "$1"; }
pod_is_ready() { kubelet_says '"ready":true'; }
no_pod() { [ -z "$(crictl pods --quiet)" ] && [ -z "$(crictl ps --all --quiet)" ]; }
started_anew() { [ -n "$(containers)" ] && [ "$(containers)" != "$1" ]; }
running_since() { [ "$(containers)" = "$1" ]; }
image() { ctr -n k8s.io images ls -q | grep -F "/$unit:"; }
in_container() { crictl exec "$(containers)" "$@"; }

# pause_image builds what a pod's sandbox runs, since the machine reaches no registry.
pause_image() {
	local dir id
	dir=$(mktemp -d)
	mkdir -p "$dir/tree/bin"
	cp /bin/busybox "$dir/tree/bin/"
	tar -C "$dir/tree" -cf "$dir/layer.tar" bin
	id=$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)
	printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/bin/busybox","sleep","2147483647"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$id" >"$dir/config.json"
	printf '[{"Config":"config.json","RepoTags":["localhost/pause:1"],"Layers":["layer.tar"]}]' >"$dir/manifest.json"
	tar -C "$dir" -cf /srv/pause.tar manifest.json config.json layer.tar
}

# node_files writes what a node has beside kubelet and containerd: a network for pods,
# and the units.
node_files() {
	mkdir -p /etc/cni/net.d $manifests
	cat >/etc/cni/net.d/10-bridge.conflist <<-EOF
		{"cniVersion": "0.4.0", "name": "machine", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16", "gateway": "$bridge"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
	EOF
	cat >/etc/kubelet.yaml <<-EOF
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
		authorization: {mode: AlwaysAllow}
		readOnlyPort: 10255
		staticPodPath: $manifests
		containerRuntimeEndpoint: $CONTAINER_RUNTIME_ENDPOINT
		cgroupDriver: systemd
		failSwapOn: false
		makeIPTablesUtilChains: false
		fileCheckFrequency: 2s
		runtimeRequestTimeout: 5m
	EOF
	cat >/etc/systemd/system/kubelet.service <<-EOF
		[Service]
		ExecStart=/opt/node/kubelet --config=/etc/kubelet.yaml --hostname-override=machine
		Restart=always
	EOF
	pause_image
}

# containerd_of starts the containerd of a directory with its own configuration.
containerd_of() {
	local dir=$1 plugins=$2
	mkdir -p /etc/containerd
	cat >/etc/containerd/config.toml
	cat >/etc/systemd/system/containerd-machine.service <<-EOF
		[Service]
		Environment=PATH=$dir:/usr/sbin:/usr/bin:/sbin:/bin
		ExecStart=$dir/containerd --config=/etc/containerd/config.toml --root=/var/lib/containerd-$plugins
		Delegate=yes
		KillMode=process
	EOF
	systemctl daemon-reload
	systemctl restart containerd-machine.service
	check "containerd answers: $("$dir/containerd" --version | cut -d' ' -f3)" crictl version
	check "it takes the image" ctr -n k8s.io images import /srv/image.tar
	check "and the one of sandboxes" ctr -n k8s.io images import /srv/pause.tar
	systemctl restart kubelet.service
}

# with_emulator adds to a pod what an instance role gives elsewhere.
with_emulator() {
	sed "s|^  - name: $unit\$|&\n    env: [{name: AWS_ACCESS_KEY_ID, value: dev}, {name: AWS_SECRET_ACCESS_KEY, value: dev}, {name: AWS_ENDPOINT_URL_KMS, value: \"$1\"}]|;
		s|^    name: $unit\$|&\n    env: [{name: AWS_ACCESS_KEY_ID, value: dev}, {name: AWS_SECRET_ACCESS_KEY, value: dev}, {name: AWS_ENDPOINT_URL_KMS, value: \"$1\"}]|"
}

remove_pod() {
	rm $manifests/pod.yaml
	check "its manifest taken away, the pod goes" no_pod
	check "and its socket with it" gone $first
}

generated_pod() {
	local container
	kms-emulator generate static-pod --key=$key --health-port=127.0.0.1:8083 --image="$(image)" |
		with_emulator http://127.0.0.1:4566 >$manifests/pod.yaml
	check "the pod of generate is ready" pod_is_ready
	check "it serves" serves $first
	check "crictl exec asks it" in_container /$unit status
	container=$(containers)
	sleep 45 # four probes and more
	check "no probe restarts it" running_since "$container"
	kill -STOP "$(pgrep --full --exact "/$unit --key=.*")"
	check "the kubelet ends what is stopped, and starts it again" started_anew "$container"
	check "which serves" serves $first
	remove_pod
}

# predecessor_pod is the pod of the predecessor's README with image, key and Region
# replaced, as it says.
predecessor_pod() {
	local container
	with_emulator http://$bridge:4566 >$manifests/pod.yaml <<-EOF
		apiVersion: v1
		kind: Pod
		metadata:
		  name: aws-encryption-provider
		  namespace: kube-system
		spec:
		  containers:
		  - image: $(image)
		    name: aws-encryption-provider
		    command:
		    - /aws-encryption-provider
		    - -key=$key
		    - -region=us-west-2
		    - -listen=/var/run/kmsplugin/socket.sock
		    ports:
		    - containerPort: 8080
		      protocol: TCP
		    livenessProbe:
		      httpGet:
		        path: /healthz
		        port: 8080
		    volumeMounts:
		    - mountPath: /var/run/kmsplugin
		      name: var-run-kmsplugin
		  volumes:
		  - name: var-run-kmsplugin
		    hostPath:
		      path: /var/run/kmsplugin
		      type: DirectoryOrCreate
	EOF
	check "the predecessor's pod runs" pod_is_ready
	check "it serves" serves $first
	container=$(containers)
	sleep 45
	check "/healthz keeps it" running_since "$container"
	remove_pod
}

pods() {
	limit=600 # a kubelet's first start on an emulated processor
	node_files
	say "-- pods under Debian's containerd"
	containerd_of /usr/bin debian <<-EOF
		version = 2
		[plugins."io.containerd.grpc.v1.cri"]
		sandbox_image = "localhost/pause:1"
		[plugins."io.containerd.grpc.v1.cri".cni]
		bin_dir = "/usr/lib/cni"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		runtime_type = "io.containerd.runc.v2"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		SystemdCgroup = true
	EOF
	generated_pod
	predecessor_pod
	systemctl stop kubelet.service containerd-machine.service
	say "-- pods under a containerd of today"
	containerd_of /opt/node today <<-EOF
		version = 3
		[plugins."io.containerd.cri.v1.images".pinned_images]
		sandbox = "localhost/pause:1"
		[plugins."io.containerd.cri.v1.runtime".cni]
		bin_dirs = ["/usr/lib/cni"]
		[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
		runtime_type = "io.containerd.runc.v2"
		[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
		SystemdCgroup = true
	EOF
	check "the image can be pinned" ctr -n k8s.io images label "$(image)" io.cri-containerd.pinned=pinned
	check "and crictl shows it" pinned
	generated_pod
	predecessor_pod
}

pinned() { crictl inspecti "$(image)" | grep '"pinned": true'; }
